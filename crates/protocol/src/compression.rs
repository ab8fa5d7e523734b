//! Compressed bodies: zlib streams, although the header calls them `deflate`.
//!
//! A body is inflated only as far as it says itself and never beyond the limit: a small body
//! that would become a large one is stopped there.

use bytes::Bytes;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::error::ProtocolError;

/// The only kind of compression.
pub const DEFLATE: &str = "deflate";
/// Header of a request: how its body is compressed.
pub const REQUEST_COMPRESS_TYPE: &str = "x-ots-request-compress-type";
/// Header of a request: bytes of its body before compression.
pub const REQUEST_COMPRESS_SIZE: &str = "x-ots-request-compress-size";
/// Header of a request: what its answer may be compressed with; of an answer: what it is.
pub const RESPONSE_COMPRESS_TYPE: &str = "x-ots-response-compress-type";
/// Header of an answer: bytes of its body before compression.
pub const RESPONSE_COMPRESS_SIZE: &str = "x-ots-response-compress-size";

/// Bytes that the result grows by at a time.
const STEP: usize = 64 * 1024;

/// The body as it was before compression, which must be exactly as long as was declared.
///
/// `kind` and `size` are the values of the request's two headers. `limit` is the most bytes that
/// a body may have.
pub fn inflate_request(
    body: &Bytes,
    kind: Option<&str>,
    size: Option<&str>,
    limit: usize,
) -> Result<Bytes, ProtocolError> {
    match kind {
        None => Ok(body.clone()),
        Some(DEFLATE) => {
            let size = size.ok_or(ProtocolError::HeaderMissing { name: REQUEST_COMPRESS_SIZE })?;
            inflate(body, declared(size)?, limit)
        }
        Some(_) => Err(ProtocolError::HeaderMalformed { name: REQUEST_COMPRESS_TYPE }),
    }
}

fn declared(size: &str) -> Result<u64, ProtocolError> {
    let malformed = ProtocolError::HeaderMalformed { name: REQUEST_COMPRESS_SIZE };
    if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed);
    }
    size.parse().map_err(|_| malformed)
}

fn inflate(body: &[u8], declared: u64, limit: usize) -> Result<Bytes, ProtocolError> {
    let broken = ProtocolError::Malformed("it is not a zlib stream of the declared size");
    let size = match usize::try_from(declared) {
        Ok(size) if size <= limit => size,
        _ => return Err(ProtocolError::BodyTooLarge),
    };
    let mut stream = Decompress::new(true);
    let mut out: Vec<u8> = Vec::new();
    loop {
        let done = out.len();
        let rest = body.get(stream.total_in() as usize..).unwrap_or_default();
        // One byte more than declared shows that there is more.
        let room = (size + 1 - done).min(STEP);
        out.resize(done + room, 0);
        let before = (stream.total_in(), stream.total_out());
        let status = stream
            .decompress(rest, &mut out[done..], FlushDecompress::None)
            .map_err(|_| broken.clone())?;
        let made = (stream.total_out() - before.1) as usize;
        out.truncate(done + made);
        if out.len() > size {
            return Err(broken);
        }
        match status {
            Status::StreamEnd => break,
            Status::Ok | Status::BufError if (stream.total_in(), stream.total_out()) == before => {
                return Err(broken);
            }
            Status::Ok | Status::BufError => {}
        }
    }
    if out.len() != size || stream.total_in() as usize != body.len() {
        return Err(broken);
    }
    Ok(out.into())
}

/// The body as a zlib stream.
pub fn deflate(body: &[u8]) -> Bytes {
    let mut stream = Compress::new(Compression::fast(), true);
    let mut out: Vec<u8> = Vec::with_capacity(body.len() / 2 + 64);
    loop {
        let rest = &body[stream.total_in() as usize..];
        let status = stream
            .compress_vec(rest, &mut out, FlushCompress::Finish)
            .expect("a stream that is only written cannot fail");
        if status == Status::StreamEnd {
            return out.into();
        }
        out.reserve(STEP);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert_eq, proptest};

    use super::*;

    const LIMIT: usize = 1 << 20;

    fn request(body: &[u8], size: &str) -> Result<Bytes, ProtocolError> {
        inflate_request(&Bytes::copy_from_slice(body), Some(DEFLATE), Some(size), LIMIT)
    }

    proptest! {
        #[test]
        fn what_was_deflated_is_inflated(
            body in proptest::collection::vec(any::<u8>(), 0..3000), repeat in 1usize..40,
        ) {
            let body = body.repeat(repeat);
            let size = body.len().to_string();
            prop_assert_eq!(request(&deflate(&body), &size), Ok(body.into()));
        }

        #[test]
        fn hostile_streams_only_give_errors(
            body in proptest::collection::vec(any::<u8>(), 0..300), size in 0usize..1000,
        ) {
            let _ = request(&body, &size.to_string());
        }
    }

    #[test]
    fn a_bomb_stops_at_what_it_declared() {
        let bomb = deflate(&vec![0; 8 * LIMIT]);
        assert!(bomb.len() < 64 * 1024);
        for size in ["0", "1", "1000", "1048576"] {
            assert_eq!(
                request(&bomb, size),
                Err(ProtocolError::Malformed("it is not a zlib stream of the declared size"))
            );
        }
        for size in ["1048577", "9223372036854775808", "18446744073709551615"] {
            assert_eq!(request(&bomb, size), Err(ProtocolError::BodyTooLarge));
        }
    }

    #[test]
    fn declared_size_must_be_a_plain_number() {
        let body = deflate(b"abc");
        for size in ["", "-1", "+3", "3 ", "0x3", "18446744073709551616", "drei"] {
            assert_eq!(
                request(&body, size),
                Err(ProtocolError::HeaderMalformed { name: REQUEST_COMPRESS_SIZE })
            );
        }
        assert_eq!(
            inflate_request(&body, Some(DEFLATE), None, LIMIT),
            Err(ProtocolError::HeaderMissing { name: REQUEST_COMPRESS_SIZE })
        );
        assert_eq!(request(&body, "3"), Ok(Bytes::from_static(b"abc")));
    }

    #[test]
    fn unknown_kind_is_refused_and_none_is_left_alone() {
        let body = Bytes::from_static(b"abc");
        assert_eq!(inflate_request(&body, None, None, LIMIT), Ok(body.clone()));
        for kind in ["gzip", "", "Deflate", "deflate, deflate"] {
            assert_eq!(
                inflate_request(&body, Some(kind), Some("3"), LIMIT),
                Err(ProtocolError::HeaderMalformed { name: REQUEST_COMPRESS_TYPE })
            );
        }
    }

    #[test]
    fn damaged_streams_are_refused() {
        let whole = deflate(b"abcabcabcabc");
        let refused = |body: &[u8]| request(body, "12").is_err();
        for end in 0..whole.len() {
            assert!(refused(&whole[..end]), "cut at {end}");
        }
        let mut wrong_sum = whole.to_vec();
        *wrong_sum.last_mut().unwrap() ^= 1;
        assert!(refused(&wrong_sum));
        assert!(refused(&[&whole[..], b"x"].concat()), "trailing byte");
        assert!(refused(&whole[2..whole.len() - 4]), "raw deflate");
        assert!(refused(b"\x1f\x8b\x08\0\0\0\0\0\0\x03"), "gzip");
        assert!(refused(b"\x78\xbb\0\0\0\0\x4b\x4c\x4a\x06\0"), "preset dictionary");
    }
}
