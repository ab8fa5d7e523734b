//! Heads of signed requests (signature V2), made with one pass of the signing key and no
//! allocation. The date is renewed twice a second: the server allows minutes.

use std::io::Write;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use isthmus_model::clock::{Clock, SystemClock};
use isthmus_protocol::date::format_date;
use sha1::Sha1;

const VERSION: &str = "2015-12-31";
const DATE_LIFE: Duration = Duration::from_millis(500);
/// Characters of base64 of 20 bytes.
const SIGNATURE_CHARS: usize = 28;

/// Who asks.
#[derive(Clone, Debug)]
pub(crate) struct Access {
    /// Instance.
    pub(crate) instance: String,
    /// Access key.
    pub(crate) id: String,
    /// Its secret.
    pub(crate) secret: String,
}

/// Signs requests of one connection.
#[derive(Clone)]
pub(crate) struct Signer {
    mac: Hmac<Sha1>,
    access: Access,
    host: String,
    date: String,
    date_until: Instant,
}

impl Signer {
    pub(crate) fn new(access: &Access, host: &str) -> Signer {
        Signer {
            mac: Hmac::new_from_slice(access.secret.as_bytes()).expect("a key may have any length"),
            access: access.clone(),
            host: host.to_owned(),
            date: String::new(),
            date_until: Instant::now(),
        }
    }

    fn renew_date(&mut self) {
        let now = Instant::now();
        if now >= self.date_until {
            self.date = format_date(SystemClock.wall_millis());
            self.date_until = now + DATE_LIFE;
        }
    }

    /// Appends the head of a request. What is signed is the path, but for the administration port.
    pub(crate) fn put_head(
        &mut self,
        method: &str,
        (path, signed): (&str, &str),
        md5: &str,
        length: usize,
        out: &mut Vec<u8>,
    ) {
        self.renew_date();
        let Access { instance, id, .. } = &self.access;
        let mut mac = self.mac.clone();
        let texts = [
            signed,
            "\nPOST\n\nx-ots-accesskeyid:",
            id,
            "\nx-ots-apiversion:",
            VERSION,
            "\nx-ots-contentmd5:",
            md5,
            "\nx-ots-date:",
            &self.date,
            "\nx-ots-instancename:",
            instance,
            "\n",
        ];
        for text in texts {
            mac.update(text.as_bytes());
        }
        let mut signature = [0; SIGNATURE_CHARS];
        STANDARD
            .encode_slice(mac.finalize().into_bytes(), &mut signature)
            .expect("20 bytes make 28 characters");
        let parts = [
            method,
            " ",
            path,
            " HTTP/1.1\r\nhost: ",
            &self.host,
            "\r\nx-ots-accesskeyid: ",
            id,
            "\r\nx-ots-apiversion: ",
            VERSION,
            "\r\nx-ots-contentmd5: ",
            md5,
            "\r\nx-ots-date: ",
            &self.date,
            "\r\nx-ots-instancename: ",
            instance,
            "\r\nx-ots-signature: ",
        ];
        for part in parts {
            out.extend_from_slice(part.as_bytes());
        }
        out.extend_from_slice(&signature);
        write!(out, "\r\ncontent-length: {length}\r\n\r\n").expect("a vector takes all");
    }
}

#[cfg(test)]
mod tests {
    use isthmus_protocol::signature::{
        AccessKey, Secret, SignedHeaders, SignedRequest, SigningKeys, content_md5,
    };

    use super::*;

    #[test]
    fn heads_are_what_the_server_accepts() {
        let access = Access { instance: "demo".into(), id: "me".into(), secret: "hush".into() };
        let mut signer = Signer::new(&access, "127.0.0.1:1");
        let mut head = Vec::new();
        signer.put_head("POST", ("/PutRow", "/PutRow"), &content_md5(b"body"), 4, &mut head);
        let head = String::from_utf8(head).unwrap();
        let (line, headers) = head.split_once("\r\n").unwrap();
        assert_eq!(line, "POST /PutRow HTTP/1.1");
        let pairs = headers.trim_end().split("\r\n").map(|line| line.split_once(": ").unwrap());
        let pairs = pairs.map(|(name, value)| (name, value.as_bytes()));
        let request = SignedRequest::read(SignedHeaders::collect(pairs).unwrap()).unwrap();
        let secret = Secret::new(b"hush");
        let key = AccessKey { secret: &secret, security_token: None };
        let now = SystemClock.wall_millis();
        request.verify("/PutRow", Some(key), &SigningKeys::new(), now).unwrap();
        request.check_body(b"body").unwrap();
    }
}
