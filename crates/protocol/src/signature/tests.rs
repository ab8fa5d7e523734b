mod timing;

use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::*;
use crate::date::format_date;

const BODY: &[u8] = &[
    0x0a, 0x01, 0x74, 0x12, 0x1c, 0x75, 0x00, 0x00, 0x00, 0x01, 0x03, 0x04, 0x02, 0x00, 0x00, 0x00,
    0x70, 0x6b, 0x05, 0x06, 0x00, 0x00, 0x00, 0x03, 0x01, 0x00, 0x00, 0x00, 0x78, 0x0a, 0x9b, 0x09,
    0x76, 0x28, 0x01,
];
const NOW: i64 = 1_767_323_045_000;
const MD5: &str = "akYvYFxMqo+/XZz7hNewiA==";
const V2: &str = "wdKKgivG/g9gTsVW34a7Shd5gYY=";
const V4: &str = "FP1W5X8YQ2ao0WFkVqmwr39N079Zj0Kj3iSgabZhKxE=";

type Pairs = Vec<(&'static str, String)>;

fn plain() -> Pairs {
    [
        ("X-Ots-Date", "2026-01-02T03:04:05.000Z"),
        ("x-ots-apiversion", "2015-12-31"),
        ("x-ots-accesskeyid", "testid"),
        ("x-ots-contentmd5", MD5),
        ("x-ots-instancename", "  inst "),
        ("User-Agent", "x"),
    ]
    .map(|(name, value)| (name, value.to_owned()))
    .to_vec()
}

fn v2() -> Pairs {
    let mut pairs = plain();
    pairs.push(("x-ots-signature", V2.to_owned()));
    pairs
}

fn v4() -> Pairs {
    let mut pairs = plain();
    pairs.push(("x-ots-signdate", "20260102".to_owned()));
    pairs.push(("x-ots-signregion", "cn-hangzhou".to_owned()));
    pairs.push(("x-ots-signaturev4", V4.to_owned()));
    pairs
}

fn set(pairs: &mut Pairs, name: &'static str, value: &str) {
    pairs.retain(|pair| !pair.0.eq_ignore_ascii_case(name));
    pairs.push((name, value.to_owned()));
}

fn collect(pairs: &Pairs) -> Result<SignedHeaders<'_>, ProtocolError> {
    SignedHeaders::collect(pairs.iter().map(|(name, value)| (*name, value.as_bytes())))
}

/// Signs again after a change, as a client that knows the secret would.
fn sign_again(pairs: &mut Pairs, path: &str, secret: &Secret, names: &[&'static str]) {
    pairs.retain(|pair| !names.contains(&pair.0));
    for name in names {
        let headers = collect(pairs).unwrap();
        let value = if *name == SIGNATURE_V2 {
            Signer::V2(secret.sha1()).sign(&headers.string_to_sign(path, false, b""))
        } else {
            let (day, region) = (headers.get(SIGN_DATE), headers.get(SIGN_REGION));
            let derived = secret.derive(day.unwrap(), region.unwrap());
            Signer::V4(derived.sha256()).sign(&headers.string_to_sign(path, false, V4_SALT))
        };
        pairs.push((name, value));
    }
}

fn secret() -> Secret {
    Secret::new(b"testsecret")
}

fn check_at(pairs: &Pairs, path: &str, now: i64) -> Result<String, ProtocolError> {
    let secret = secret();
    let request = SignedRequest::read(collect(pairs)?)?;
    let key = AccessKey { secret: &secret, security_token: None };
    let verified = request.verify(path, Some(key), &SigningKeys::new(), now)?;
    request.check_body(BODY)?;
    Ok(verified.path.to_owned())
}

fn check(pairs: &Pairs) -> Result<String, ProtocolError> {
    check_at(pairs, "/GetRow", NOW)
}

#[test]
fn worked_examples_of_both_versions_are_accepted() {
    assert_eq!(check(&v2()), Ok("/GetRow".to_owned()));
    assert_eq!(check(&v4()), Ok("/GetRow".to_owned()));
    assert_eq!(content_md5(b""), "1B2M2Y8AsgTpgAmY7PhCfg==");
}

#[test]
fn worked_examples_are_what_a_client_signs() {
    let secret = secret();
    let mut request = RequestToSign {
        path: "/GetRow",
        body: BODY,
        instance: "inst",
        access_key_id: "testid",
        secret: &secret,
        security_token: None,
        sign_region: None,
        further: &[],
        now_millis: NOW,
    };
    let value = |signed: &SignedForSending, name| {
        let header = signed.headers.iter().find(|header| header.0 == name);
        header.map(|header| header.1.clone())
    };
    let signed = sign_request(&request).unwrap();
    assert_eq!(value(&signed, SIGNATURE_V2).as_deref(), Some(V2));
    assert_eq!(value(&signed, SIGNATURE_V4), None);
    request.sign_region = Some("cn-hangzhou");
    let signed = sign_request(&request).unwrap();
    assert_eq!(value(&signed, SIGNATURE_V4).as_deref(), Some(V4));
    assert_eq!(value(&signed, SIGN_DATE).as_deref(), Some("20260102"));
    request.further = &[("x-ots-date", "again")];
    assert!(sign_request(&request).is_err());
}

#[test]
fn answers_are_signed_as_in_the_worked_examples() {
    let answer = [0x0a, 0x06, 0x0a, 0x04, 0x08, 0x01, 0x10, 0x00, 0x12, 0x00];
    let md5 = content_md5(&answer);
    assert_eq!(md5, "kMDnM1kr5uDjA9VkTFGYzw==");
    let mut headers = [
        (REQUEST_ID, "0005f6ff-7a3c-2b5e-c0a8-0a0100000001"),
        (DATE, "2026-01-02T03:04:05.000Z"),
        (CONTENT_TYPE, "protocol buffer"),
        (CONTENT_MD5, md5.as_str()),
    ];
    let expected =
        ["OTS testid:e0PLPonJjC3keMxM0o91I+hKVXM=", "OTS testid:URl41NjdF7H1fYX74QU1dDttLPM="];
    for (pairs, expected) in [v2(), v4()].iter().zip(expected) {
        let secret = secret();
        let request = SignedRequest::read(collect(pairs).unwrap()).unwrap();
        let key = AccessKey { secret: &secret, security_token: None };
        let verified = request.verify("/GetRow", Some(key), &SigningKeys::new(), NOW).unwrap();
        let key = verified.response_key;
        assert_eq!(key.authorization("testid", "/GetRow", &mut headers), expected);
        assert!(key.is_authorization(expected, "testid", "/GetRow", &mut headers));
        assert!(!key.is_authorization(expected, "testid", "/PutRow", &mut headers));
    }
}

#[test]
fn each_missing_empty_or_doubled_header_is_named() {
    let names = [DATE, API_VERSION, ACCESS_KEY_ID, INSTANCE_NAME, CONTENT_MD5, SIGNATURE_V2];
    for name in names {
        let mut pairs = v2();
        pairs.retain(|pair| !pair.0.eq_ignore_ascii_case(name));
        assert_eq!(check(&pairs), Err(ProtocolError::HeaderMissing { name }));
        pairs.push((name, " ".to_owned()));
        assert_eq!(check(&pairs), Err(ProtocolError::HeaderMissing { name }));
        for value in ["other", V2] {
            let mut pairs = v2();
            pairs.push((name, value.to_owned()));
            assert_eq!(check(&pairs), Err(ProtocolError::HeaderDoubled { name: name.to_owned() }));
        }
    }
    for name in [SIGN_DATE, SIGN_REGION] {
        let mut pairs = v4();
        pairs.retain(|pair| pair.0 != name);
        assert_eq!(check(&pairs), Err(ProtocolError::HeaderMissing { name }));
    }
    assert_eq!(
        ProtocolError::HeaderMissing { name: DATE }.message(),
        "Missing header: 'x-ots-date'."
    );
}

#[test]
fn wrong_signatures_are_refused() {
    for (pairs, name, right) in [(v2(), SIGNATURE_V2, V2), (v4(), SIGNATURE_V4, V4)] {
        let bytes = STANDARD.decode(right).unwrap();
        let mut wrong = vec!["=".to_owned(), "!".to_owned(), "A".repeat(1 << 20)];
        for place in [0, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            wrong.push(STANDARD.encode(changed));
        }
        wrong.push(STANDARD.encode(&bytes[..19]));
        wrong.push(STANDARD.encode([&bytes[..], b"x"].concat()));
        wrong.push(right.replace('+', "-").replace('/', "_") + "-");
        wrong.push(right.trim_end_matches('=').to_owned());
        // The last character before the padding has bits that do not count.
        let last = right.trim_end_matches('=').len() - 1;
        let neighbour = (right.as_bytes()[last] + 1) as char;
        wrong.push(format!("{}{neighbour}=", &right[..last]));
        for wrong in wrong {
            let mut pairs = pairs.clone();
            set(&mut pairs, name, &wrong);
            assert_eq!(check(&pairs), Err(ProtocolError::SignatureMismatch), "{wrong:.60}");
        }
    }
}

#[test]
fn changed_path_instance_body_or_further_header_is_refused() {
    let mismatch = Err(ProtocolError::SignatureMismatch);
    for pairs in [v2(), v4()] {
        assert_eq!(check_at(&pairs, "/DeleteTable", NOW), mismatch);
        assert_eq!(check_at(&pairs, "/GetRow/", NOW), mismatch);
        assert_eq!(check_at(&pairs, "/GetRow?x=1", NOW), mismatch);
        let mut other = pairs.clone();
        set(&mut other, INSTANCE_NAME, "other");
        assert_eq!(check(&other), mismatch);
        let mut further = pairs.clone();
        further.push(("x-ots-further", "1".to_owned()));
        assert_eq!(check(&further), mismatch);
        // Even empty, for it is not known to any client.
        set(&mut further, "x-ots-further", "");
        assert_eq!(check(&further), mismatch);
        let mut body = pairs.clone();
        set(&mut body, CONTENT_MD5, &content_md5(b"other"));
        assert_eq!(check(&body), mismatch);
        sign_again(&mut body, "/GetRow", &secret(), &[SIGNATURE_V2]);
        body.retain(|pair| pair.0 != SIGNATURE_V4);
        assert_eq!(check(&body), Err(ProtocolError::DigestMismatch));
        for wrong in ["", "x", &"A".repeat(1000)] {
            let mut body = v2();
            set(&mut body, CONTENT_MD5, wrong);
            sign_again(&mut body, "/GetRow", &secret(), &[SIGNATURE_V2]);
            assert!(check(&body).is_err());
        }
    }
}

#[test]
fn known_header_that_is_empty_may_be_unsigned() {
    let mut pairs = v2();
    pairs.push(("x-ots-sourceip", String::new()));
    assert!(check(&pairs).is_ok());
    // As another client does, it may be signed as well.
    sign_again(&mut pairs, "/GetRow", &secret(), &[SIGNATURE_V2]);
    assert!(check(&pairs).is_ok());
    let mut pairs = v2();
    pairs.push(("x-ots-sourceip", "10.0.0.1".to_owned()));
    assert_eq!(check(&pairs), Err(ProtocolError::SignatureMismatch));
}

#[test]
fn doubled_slash_is_dropped_only_where_it_was_not_signed() {
    assert_eq!(check_at(&v2(), "//GetRow", NOW), Ok("/GetRow".to_owned()));
    assert_eq!(check_at(&v2(), "///GetRow", NOW), Err(ProtocolError::SignatureMismatch));
    let mut pairs = v2();
    sign_again(&mut pairs, "//GetRow", &secret(), &[SIGNATURE_V2]);
    assert_eq!(check_at(&pairs, "//GetRow", NOW), Ok("//GetRow".to_owned()));
}

#[test]
fn request_to_the_administration_signs_its_method_and_query() {
    let secret = secret();
    for sign_region in [None, Some("r1")] {
        let path = admin_path("POST", "/v1/jobs?table=t");
        let signed = sign_request(&RequestToSign {
            path: &path,
            body: BODY,
            instance: "inst",
            access_key_id: "testid",
            secret: &secret,
            security_token: None,
            sign_region,
            further: &[],
            now_millis: NOW,
        });
        let pairs = signed.unwrap().headers;
        let mismatch = Err(ProtocolError::SignatureMismatch);
        assert_eq!(check_at(&pairs, &admin_path("POST", "/v1/jobs?table=t"), NOW), Ok(path));
        assert_eq!(check_at(&pairs, &admin_path("GET", "/v1/jobs?table=t"), NOW), mismatch);
        assert_eq!(check_at(&pairs, &admin_path("DELETE", "/v1/jobs?table=t"), NOW), mismatch);
        assert_eq!(check_at(&pairs, &admin_path("POST", "/v1/jobs?table=u"), NOW), mismatch);
        assert_eq!(check_at(&pairs, &admin_path("POST", "/v1/jobs"), NOW), mismatch);
        assert_eq!(check_at(&pairs, "/v1/jobs?table=t", NOW), mismatch);
        assert_eq!(check_at(&pairs, "/v1/jobs", NOW), mismatch);
    }
    // And what was signed for the public API means nothing to the administration.
    let given = check_at(&v2(), &admin_path("POST", "/GetRow"), NOW);
    assert_eq!(given, Err(ProtocolError::SignatureMismatch));
}

#[test]
fn dates_outside_of_a_quarter_of_an_hour_are_refused() {
    let minute = 60_000;
    for offset in [-15 * minute, -14 * minute - 59_000, 0, 15 * minute, 15 * minute + 999] {
        assert!(check_at(&v2(), "/GetRow", NOW + offset).is_ok(), "{offset}");
    }
    for offset in [-15 * minute - 1_000, 15 * minute + 1_000, i64::MAX, i64::MIN] {
        let error = check_at(&v2(), "/GetRow", NOW.saturating_add(offset)).unwrap_err();
        assert_eq!(
            error.message(),
            "Mismatch between system time and x-ots-date: 2026-01-02T03:04:05.000Z."
        );
    }
    for (date, code) in [
        ("0000-01-01T00:00:00Z", "OTSAuthFailed"),
        ("9999-12-31T23:59:59.999Z", "OTSAuthFailed"),
        ("2026-01-02T03:04:60.000Z", "OTSParameterInvalid"),
        ("2026-02-30T03:04:05.000Z", "OTSParameterInvalid"),
        ("2026-01-02T03:04:05.000", "OTSParameterInvalid"),
        ("2026-01-02T03:04:05+08:00", "OTSParameterInvalid"),
    ] {
        let mut pairs = v2();
        set(&mut pairs, DATE, date);
        sign_again(&mut pairs, "/GetRow", &secret(), &[SIGNATURE_V2]);
        assert_eq!(check(&pairs).unwrap_err().code().as_str(), code, "{date}");
    }
    let mut pairs = v2();
    set(&mut pairs, DATE, "2026-01-02T03:04:05.112010Z");
    sign_again(&mut pairs, "/GetRow", &secret(), &[SIGNATURE_V2]);
    assert!(check(&pairs).is_ok());
}

#[test]
fn pinned_sign_date_is_accepted_for_some_days_only() {
    let at = |day: &str| {
        let mut pairs = v4();
        set(&mut pairs, SIGN_DATE, day);
        sign_again(&mut pairs, "/GetRow", &secret(), &[SIGNATURE_V4]);
        check(&pairs)
    };
    for day in ["20251226", "20260101", "20260102", "20260103", "20260109"] {
        assert!(at(day).is_ok(), "{day}");
    }
    for day in ["20251203", "20251224", "20260111", "00000101", "99991231"] {
        let expected = ProtocolError::SignDateSkewed { date: day.to_owned() };
        assert_eq!(at(day), Err(expected));
    }
    for day in ["2026-01-02", "20260132", "today"] {
        let expected = ProtocolError::DateMalformed { date: day.to_owned() };
        assert_eq!(at(day), Err(expected));
    }
    let mut pairs = v4();
    set(&mut pairs, SIGN_DATE, "20260101");
    assert_eq!(check(&pairs), Err(ProtocolError::SignatureMismatch));
    let mut pairs = v4();
    set(&mut pairs, SIGN_REGION, "cn-beijing");
    assert_eq!(check(&pairs), Err(ProtocolError::SignatureMismatch));
}

#[test]
fn version_four_decides_where_both_are_there() {
    let mut both = v4();
    sign_again(&mut both, "/GetRow", &secret(), &[SIGNATURE_V2]);
    assert!(check(&both).is_ok());
    let mut bad_v2 = both.clone();
    set(&mut bad_v2, SIGNATURE_V2, V2);
    assert!(check(&bad_v2).is_ok());
    let mut bad_v4 = both.clone();
    set(&mut bad_v4, SIGNATURE_V4, &STANDARD.encode([0; 32]));
    assert_eq!(check(&bad_v4), Err(ProtocolError::SignatureMismatch));
    set(&mut bad_v4, SIGNATURE_V4, "");
    assert_eq!(check(&bad_v4), Err(ProtocolError::HeaderMissing { name: SIGNATURE_V4 }));
    // V4 taken away, V2 of another request put in.
    let mut downgraded = v4();
    downgraded.retain(|pair| pair.0 != SIGNATURE_V4);
    downgraded.push((SIGNATURE_V2, V2.to_owned()));
    assert_eq!(check(&downgraded), Err(ProtocolError::SignatureMismatch));
}

#[test]
fn unknown_key_and_wrong_secret_are_refused() {
    let keys = SigningKeys::new();
    for pairs in [v2(), v4()] {
        let request = SignedRequest::read(collect(&pairs).unwrap()).unwrap();
        let unknown = request.verify("/GetRow", None, &keys, NOW).unwrap_err();
        assert_eq!(unknown, ProtocolError::AccessKeyUnknown);
        let secret = Secret::new(b"other");
        let key = AccessKey { secret: &secret, security_token: None };
        let wrong = request.verify("/GetRow", Some(key), &keys, NOW).unwrap_err();
        assert_eq!(wrong, ProtocolError::SignatureMismatch);
    }
}

#[test]
fn changed_secret_is_used_at_once() {
    let keys = SigningKeys::new();
    let (old, new) = (secret(), Secret::new(b"new"));
    let pairs = v4();
    let request = SignedRequest::read(collect(&pairs).unwrap()).unwrap();
    let verify = |secret| {
        let key = AccessKey { secret, security_token: None };
        request.verify("/GetRow", Some(key), &keys, NOW).map(|_| ())
    };
    for _ in 0..2 {
        assert_eq!(verify(&old), Ok(()));
        assert_eq!(verify(&new), Err(ProtocolError::SignatureMismatch));
    }
}

#[test]
fn remembered_keys_are_bounded() {
    let keys = SigningKeys::new();
    let secret = secret();
    for number in 0..3_000 {
        keys.remember("id", &secret, "20260102", &number.to_string());
    }
    let same = |a: DerivedKey, b: DerivedKey| {
        ResponseKey::new(a.sha1()).authorization("", "", &mut [])
            == ResponseKey::new(b.sha1()).authorization("", "", &mut [])
    };
    assert!(keys.find(Some("id"), &secret, "20260102", "0").is_none());
    let found = keys.find(Some("id"), &secret, "20260102", "2999").unwrap();
    assert!(same(found, secret.derive("20260102", "2999")));
}

#[test]
fn token_of_a_temporary_key_must_match() {
    let secret = secret();
    let keys = SigningKeys::new();
    let verify = |sent: Option<&str>, expected: Option<&str>| {
        let mut pairs = plain();
        if let Some(token) = sent {
            pairs.push((SECURITY_TOKEN, token.to_owned()));
        }
        sign_again(&mut pairs, "/GetRow", &secret, &[SIGNATURE_V2]);
        let request = SignedRequest::read(collect(&pairs).unwrap()).unwrap();
        let key = AccessKey { secret: &secret, security_token: expected };
        request.verify("/GetRow", Some(key), &keys, NOW).map(|_| ())
    };
    assert_eq!(verify(Some("token"), Some("token")), Ok(()));
    let wrong = Err(ProtocolError::TokenMismatch);
    assert_eq!(verify(None, Some("token")), wrong);
    assert_eq!(verify(Some("tokem"), Some("token")), wrong);
    assert_eq!(verify(Some("token1"), Some("token")), wrong);
    assert_eq!(verify(Some("token"), None), wrong);
    assert_eq!(ProtocolError::TokenMismatch.code().http_status(), 403);
}

#[test]
fn too_many_headers_are_refused() {
    let names: Vec<String> = (0..100).map(|number| format!("x-ots-{number}")).collect();
    assert!(SignedHeaders::collect(names.iter().map(|name| (name.as_str(), &b"v"[..]))).is_err());
}

#[test]
fn secrets_do_not_show_themselves() {
    let shown = format!("{:?} {:?}", secret(), SigningKeys::new());
    assert_eq!(shown, "Secret SigningKeys");
}

proptest! {
    #[test]
    fn what_a_client_signs_is_accepted_now(
        body in proptest::collection::vec(any::<u8>(), 0..50),
        id in "[a-z]{1,8}", instance in "[a-z]{1,8}", token in proptest::option::of("[a-z]{1,8}"),
        region in proptest::option::of("[a-z]{1,8}"), now in 0i64..4_000_000_000_000,
        key in proptest::collection::vec(any::<u8>(), 0..100),
    ) {
        let secret = Secret::new(&key);
        let signed = sign_request(&RequestToSign {
            path: "/PutRow",
            body: &body,
            instance: &instance,
            access_key_id: &id,
            secret: &secret,
            security_token: token.as_deref(),
            sign_region: region.as_deref(),
            further: &[("x-ots-sdk-traceid", "1")],
            now_millis: now,
        }).unwrap();
        let pairs = signed.headers;
        let request = SignedRequest::read(collect(&pairs).unwrap()).unwrap();
        prop_assert_eq!(request.access_key_id(), &id);
        prop_assert_eq!(request.instance(), &instance);
        prop_assert_eq!(request.sign_region(), region.as_deref());
        let access = AccessKey { secret: &secret, security_token: token.as_deref() };
        let keys = SigningKeys::new();
        for _ in 0..2 {
            prop_assert!(request.verify("/PutRow", Some(access), &keys, now).is_ok());
        }
        prop_assert_eq!(request.check_body(&body), Ok(()));
        let date = format_date(now);
        prop_assert_eq!(request.headers().get(DATE), Some(date.as_str()));
    }
}
