//! Any bytes are refused or taken by each decoder of rows, keys, values and filters.

#![no_main]

use bytes::Bytes;
use isthmus_protocol::plainbuffer::{
    decode_delete, decode_key, decode_put, decode_rows, decode_update, decode_variant,
    encode_named_key,
};
use isthmus_protocol::request::decode_filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let _ = decode_put(&bytes);
    let _ = decode_update(&bytes);
    let _ = decode_delete(&bytes);
    let _ = decode_rows(&bytes);
    let _ = decode_variant(&bytes);
    let _ = decode_filter(bytes.clone(), true);
    if let Ok(key) = decode_key(&bytes) {
        assert!(encode_named_key(&key).starts_with(&bytes[..5]));
    }
});
