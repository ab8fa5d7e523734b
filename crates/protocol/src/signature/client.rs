//! Signing as a client does.

use crate::date::{format_date, format_day};
use crate::error::ProtocolError;
use crate::signature::{
    ACCESS_KEY_ID, API_VERSION, CONTENT_MD5, DATE, INSTANCE_NAME, ResponseKey, SECURITY_TOKEN,
    SIGN_DATE, SIGN_REGION, SIGNATURE_V2, SIGNATURE_V4, Secret, SignedHeaders, Signer, V4_SALT,
    content_md5,
};

/// What a client asks, to be signed.
#[derive(Clone, Copy, Debug)]
pub struct RequestToSign<'a> {
    /// Path, as it is sent.
    pub path: &'a str,
    /// Body, as it is sent.
    pub body: &'a [u8],
    /// Instance.
    pub instance: &'a str,
    /// Who asks.
    pub access_key_id: &'a str,
    /// Its secret.
    pub secret: &'a Secret,
    /// The token of a temporary key.
    pub security_token: Option<&'a str>,
    /// The region to sign for: V4; without it V2.
    pub sign_region: Option<&'a str>,
    /// Further `x-ots-*` headers, names in lower case; they are sent as well.
    pub further: &'a [(&'static str, &'a str)],
    /// Now, in milliseconds since the Unix epoch.
    pub now_millis: i64,
}

/// The headers of a signed request, and what checks its answer.
#[derive(Clone, Debug)]
pub struct SignedForSending {
    /// All `x-ots-*` headers to send.
    pub headers: Vec<(&'static str, String)>,
    /// Checks the answer's signature.
    pub response_key: ResponseKey,
}

/// Signs a request.
///
/// An error says that a header is given twice.
pub fn sign_request(request: &RequestToSign<'_>) -> Result<SignedForSending, ProtocolError> {
    let mut headers = vec![
        (DATE, format_date(request.now_millis)),
        (API_VERSION, "2015-12-31".to_owned()),
        (ACCESS_KEY_ID, request.access_key_id.to_owned()),
        (INSTANCE_NAME, request.instance.to_owned()),
        (CONTENT_MD5, content_md5(request.body)),
    ];
    if let Some(token) = request.security_token {
        headers.push((SECURITY_TOKEN, token.to_owned()));
    }
    headers.extend(request.further.iter().map(|(name, value)| (*name, (*value).to_owned())));
    let (signer, response_key, signature_name, salt) = match request.sign_region {
        None => {
            let mac = request.secret.sha1();
            (Signer::V2(mac.clone()), ResponseKey::new(mac), SIGNATURE_V2, &b""[..])
        }
        Some(region) => {
            let day = format_day(request.now_millis);
            let derived = request.secret.derive(&day, region);
            headers.push((SIGN_DATE, day));
            headers.push((SIGN_REGION, region.to_owned()));
            let response_key = ResponseKey::new(derived.sha1());
            (Signer::V4(derived.sha256()), response_key, SIGNATURE_V4, V4_SALT)
        }
    };
    let pairs = headers.iter().map(|(name, value)| (*name, value.as_bytes()));
    let text = SignedHeaders::collect(pairs)?.string_to_sign(request.path, false, salt);
    headers.push((signature_name, signer.sign(&text)));
    Ok(SignedForSending { headers, response_key })
}
