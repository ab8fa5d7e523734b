//! Who may call: the access keys of the configuration, made ready for checking signatures.

use std::collections::HashMap;

use isthmus_model::clock::Clock;
use isthmus_protocol::error::ProtocolError;
use isthmus_protocol::error_code::ErrorCode;
use isthmus_protocol::signature::{
    AccessKey, ResponseKey, Secret, SignedHeaders, SignedRequest, SigningKeys, admin_path,
};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use crate::api_error::ApiError;
use crate::config::Config;

struct Known {
    secret: Secret,
    security_token: Option<String>,
    expires_millis: Option<i64>,
    disabled: bool,
}

/// What a token opens to its bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opens {
    /// The metrics.
    Metrics,
    /// Links that ship on demand.
    Trigger,
}

/// The access keys that are known, by id.
pub struct Callers {
    instance: String,
    known: HashMap<String, Known>,
    signing_keys: SigningKeys,
    /// Bearers of it may read the metrics.
    metrics_token: Option<crate::config::Secret>,
    /// Bearers of it may trigger links.
    trigger_token: Option<crate::config::Secret>,
    /// The clock never goes back for those who replay old requests.
    latest_millis: Mutex<i64>,
}

/// A request whose sender is known.
pub struct Caller {
    /// Its access key.
    pub access_key_id: String,
    /// The path it signed.
    pub path: String,
    /// Signs the answer.
    pub response_key: ResponseKey,
}

impl Callers {
    /// Makes the keys of a configuration ready.
    pub fn new(config: &Config) -> Callers {
        let known = config.credentials.iter().map(|credential| {
            let known = Known {
                secret: Secret::new(credential.secret().as_bytes()),
                security_token: credential
                    .security_token
                    .as_ref()
                    .map(|token| token.expose().to_owned()),
                expires_millis: credential.expires_ms(),
                disabled: credential.disabled,
            };
            (credential.access_key_id.clone(), known)
        });
        Callers {
            instance: config.instance.name.clone(),
            known: known.collect(),
            signing_keys: SigningKeys::new(),
            metrics_token: config.metrics.token.clone(),
            trigger_token: config.admin.trigger_token.clone(),
            latest_millis: Mutex::new(i64::MIN),
        }
    }

    /// Whether a token of the configuration opens this to its bearer; never where that has none.
    /// The time it takes does not tell how much of it is right.
    pub fn bears_token(&self, opens: Opens, token: &str) -> bool {
        let known = match opens {
            Opens::Metrics => self.metrics_token.as_ref(),
            Opens::Trigger => self.trigger_token.as_ref(),
        };
        known.is_some_and(|known| known.expose().as_bytes().ct_eq(token.as_bytes()).into())
    }

    /// Checks who sends a request, that the body is the one it signed, and that it means this
    /// instance.
    pub fn check<'a>(
        &self,
        path: &str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &[u8],
        clock: &dyn Clock,
    ) -> Result<Caller, ApiError> {
        let request = SignedRequest::read(SignedHeaders::collect(headers)?)?;
        let now = self.now(clock);
        let id = request.access_key_id();
        let known = self.known.get(id);
        let key = known.map(|known| AccessKey {
            secret: &known.secret,
            security_token: known.security_token.as_deref(),
        });
        let verified = request.verify(path, key, &self.signing_keys, now)?;
        request.check_body(body)?;
        let Some(known) = known else { return Err(ProtocolError::AccessKeyUnknown.into()) };
        if known.disabled {
            return Err(refused("The AccessKeyID is disabled."));
        }
        if known.expires_millis.is_some_and(|expires| expires <= now) {
            return Err(refused("The security token has expired."));
        }
        if request.instance() != self.instance {
            return Err(refused("The instance is not found."));
        }
        Ok(Caller {
            access_key_id: id.to_owned(),
            path: verified.path.to_owned(),
            response_key: verified.response_key,
        })
    }

    /// Checks who sends a request to the administration API, whose method and whole target
    /// (path and query, as received) are signed.
    pub fn check_admin<'a>(
        &self,
        method: &str,
        target: &str,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
        body: &[u8],
        clock: &dyn Clock,
    ) -> Result<Caller, ApiError> {
        self.check(&admin_path(method, target), headers, body, clock)
    }

    /// The wall clock, but never before what it has shown already.
    fn now(&self, clock: &dyn Clock) -> i64 {
        let mut latest = self.latest_millis.lock();
        *latest = clock.wall_millis().max(*latest);
        *latest
    }
}

fn refused(message: &str) -> ApiError {
    ApiError::new(ErrorCode::AuthFailed, message)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::Duration;

    use isthmus_protocol::signature::{RequestToSign, sign_request};

    use super::*;

    struct Hands(AtomicI64);

    impl Clock for Hands {
        fn wall_millis(&self) -> i64 {
            self.0.load(Ordering::Relaxed)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
    }

    const NOW: i64 = 1_800_000_000_000;
    const MINUTE: i64 = 60_000;

    fn callers(known: Known) -> Callers {
        Callers {
            instance: "inst".to_owned(),
            known: HashMap::from([("id".to_owned(), known)]),
            signing_keys: SigningKeys::new(),
            metrics_token: Some(crate::config::Secret::new("a token of metrics")),
            trigger_token: Some(crate::config::Secret::new("a token of webhooks")),
            latest_millis: Mutex::new(i64::MIN),
        }
    }

    fn known() -> Known {
        Known {
            secret: Secret::new(b"secret"),
            security_token: None,
            expires_millis: None,
            disabled: false,
        }
    }

    fn ask(callers: &Callers, instance: &str, signed_at: i64, clock: &Hands) -> Result<(), String> {
        let signed = sign_request(&RequestToSign {
            path: "/GetRow",
            body: b"body",
            instance,
            access_key_id: "id",
            secret: &Secret::new(b"secret"),
            security_token: None,
            sign_region: None,
            further: &[],
            now_millis: signed_at,
        })
        .unwrap();
        let headers = signed.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
        match callers.check("/GetRow", headers, b"body", clock) {
            Ok(_) => Ok(()),
            Err(error) => Err(error.message),
        }
    }

    #[test]
    fn clock_that_steps_back_does_not_reopen_the_window() {
        let (callers, clock) = (callers(known()), Hands(AtomicI64::new(NOW)));
        assert_eq!(ask(&callers, "inst", NOW, &clock), Ok(()));
        clock.0.store(NOW + 16 * MINUTE, Ordering::Relaxed);
        assert!(ask(&callers, "inst", NOW, &clock).is_err());
        clock.0.store(NOW, Ordering::Relaxed);
        assert!(ask(&callers, "inst", NOW, &clock).is_err());
        assert_eq!(ask(&callers, "inst", NOW + 16 * MINUTE, &clock), Ok(()));
    }

    #[test]
    fn request_to_the_administration_is_taken_with_its_method_and_target_only() {
        let (callers, clock) = (callers(known()), Hands(AtomicI64::new(NOW)));
        let ask = |signed: &str, method: &str, target: &str| {
            let signed = sign_request(&RequestToSign {
                path: signed,
                body: b"",
                instance: "inst",
                access_key_id: "id",
                secret: &Secret::new(b"secret"),
                security_token: None,
                sign_region: None,
                further: &[],
                now_millis: NOW,
            })
            .unwrap();
            let headers = signed.headers.iter().map(|(name, value)| (*name, value.as_bytes()));
            callers.check_admin(method, target, headers, b"", &clock).is_ok()
        };
        assert!(ask("GET /v1/jobs?x=1", "GET", "/v1/jobs?x=1"));
        assert!(!ask("GET /v1/jobs?x=1", "POST", "/v1/jobs?x=1"));
        assert!(!ask("GET /v1/jobs?x=1", "GET", "/v1/jobs"));
        assert!(!ask("/v1/jobs", "GET", "/v1/jobs"));
    }

    #[test]
    fn only_the_whole_token_is_taken_and_opens_one_thing() {
        let mut callers = callers(known());
        let bears = |callers: &Callers, token| {
            [Opens::Metrics, Opens::Trigger].map(|opens| callers.bears_token(opens, token))
        };
        assert_eq!(bears(&callers, "a token of metrics"), [true, false]);
        assert_eq!(bears(&callers, "a token of webhooks"), [false, true]);
        for wrong in ["", "a token of metric", "a token of metrics ", "A token of metrics"] {
            assert_eq!(bears(&callers, wrong), [false, false], "{wrong:?}");
        }
        (callers.metrics_token, callers.trigger_token) = (None, None);
        assert_eq!(bears(&callers, ""), [false, false]);
    }

    #[test]
    fn keys_that_ended_and_other_instances_are_refused_by_name() {
        let clock = Hands(AtomicI64::new(NOW));
        let refused = |known, instance| ask(&callers(known), instance, NOW, &clock).unwrap_err();
        let disabled = Known { disabled: true, ..known() };
        assert_eq!(refused(disabled, "inst"), "The AccessKeyID is disabled.");
        let expired = Known { expires_millis: Some(NOW), ..known() };
        assert_eq!(refused(expired, "inst"), "The security token has expired.");
        assert_eq!(refused(known(), "other"), "The instance is not found.");
    }
}
