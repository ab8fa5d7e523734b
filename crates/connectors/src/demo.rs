//! Whom the clients of tests speak for: an instance named demo and its only key.

use isthmus_protocol::signature::{RequestToSign, ResponseKey, Secret, sign_request};

use crate::tablestore::Target;

/// The instance, served at `endpoint`.
pub(crate) fn target(endpoint: String) -> Target {
    Target {
        endpoint,
        instance: "demo".into(),
        access_key_id: "id".into(),
        access_key_secret: "secret".into(),
        security_token: None,
        sign_region: None,
    }
}

/// What it signs its answers with.
pub(crate) fn response_key() -> ResponseKey {
    let request = RequestToSign {
        path: "/",
        body: b"",
        instance: "demo",
        access_key_id: "id",
        secret: &Secret::new(b"secret"),
        security_token: None,
        sign_region: None,
        further: &[],
        now_millis: 0,
    };
    sign_request(&request).unwrap().response_key
}
