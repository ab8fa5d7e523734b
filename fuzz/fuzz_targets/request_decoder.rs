//! Any body of any operation is refused or taken; one that is taken survives the way back.

#![no_main]

use bytes::Bytes;
use isthmus_protocol::client::encode_request;
use isthmus_protocol::request::{PATHS, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((choice, body)) = data.split_first() else { return };
    let path = PATHS[usize::from(*choice) % PATHS.len()];
    if let Ok(operation) = decode(path, Bytes::copy_from_slice(body)) {
        let again = decode(path, encode_request(&operation));
        assert_eq!(again.as_ref(), Ok(&operation));
    }
});
