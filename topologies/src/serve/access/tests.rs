//! Tokens that are and are not let in, and what roles are.

use std::path::Path;

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use super::*;
use crate::spec::serve::{CallerSpec, TableRule};

const NOW_S: u64 = 1_800_000_000;
const SHARED: &str = "0123456789abcdef0123456789abcdef";

/// Public keys; the private ones were thrown away after the tokens below were signed.
const KEY_SET: &str = r#"{"keys": [
  {"kty": "RSA", "kid": "r1", "use": "sig", "alg": "RS256", "e": "AQAB", "n": "6YqK7XgJykxef8j0tCCOq7asEYgSpwlrJRbnqBfcxXyvAbPnvIb7ixBZjYBXUXndkmXMdBQoinPH0PI319zIJoNzcS9j0J6bSJkrSDl15rBJxp8b7TSSJHmczA4PmhsAXU97DrG4VGL2eLXN8p3GK36Zphc1s6tCvHOtsua0uz92y-aK8HnRxh3-oc2jWcpQqFry9FfcGp-CG1xmOw-iQufWwL03GCfm2x995F_stKMFLwMWl06_g00TRs5wlXqCsHHsVVuace-sN6Y6ojJ48AxslbyVwaEg00GccpYcvJjdGdCZMt5aW_FD7xNmbY6LnmgIGM6owddL_addQVKfSw"},
  {"kty": "EC", "kid": "e1", "crv": "P-256", "x": "R4WJA3EES43dFRq_0t9iO_r57z8RUEZBKHYMk-MJmnc", "y": "8zZZ6G6WHjxhjKdNLpE9J4H4dPx1Hd6rQgFPMSK36Xo"},
  {"kty": "OKP", "crv": "X25519", "kid": "o1", "x": "AA"},
  {"kty": "new", "kid": "n1"}
]}"#;
/// The claims of all of these are [`claims`].
const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InIxIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLyIsImF1ZCI6Imlzb2JhciIsInN1YiI6ImpvIiwicm9sZSI6ImFuYWx5c3QiLCJleHAiOjIwMDAwMDAwMDB9.b5P_g6MV_pBcJTdNHRC8wpfmYyBd8cCAtRm_EE02L-66PJUHKcdK2iQxBb9HQBQUOytSex67PNjNI8l9Xrotg39YAM071Qq6yeSCf3iNu76PF_-imEuawRExO3fIGsfSV2VcqdHWpAUEDUkQ3DuyiJEegmdmTBS4WtULOjDhuIxM6knSk_KyRQmywIT1mgln6Dr03Vix6Xckm_O2QYAK3tKYWcxzlyHBn8ixqgw1SzWoGiLeo8kc2--kfnz-8uTZd4UCNu9rZUvLxiK1i_nylLdCgWn0IXURPXCBIufW58dv9rYyfmxmb-yXdbK-Tz-1pl2lkP_zqRovF7k4ZoMMiQ";
const ES256: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImUxIiwidHlwIjoiSldUIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlLyIsImF1ZCI6Imlzb2JhciIsInN1YiI6ImpvIiwicm9sZSI6ImFuYWx5c3QiLCJleHAiOjIwMDAwMDAwMDB9.7qCSyZ6BDjpZM74PHQEOXu1B4mqd5BzYyLyTRYc0JDSDABziUnQU-KSCA0HHrjdKnf1TJSNkZeAzlbBh01pUcw";

fn claims() -> Json {
    json!({
        "iss": "https://issuer.example/",
        "aud": "isobar",
        "sub": "jo",
        "role": "analyst",
        "exp": 2_000_000_000,
    })
}

fn names() -> Names {
    Names::of(&["flights".to_owned(), "weather".to_owned()])
}

fn text(folder: &Path, name: &str, secret: &str) -> Text {
    std::fs::write(folder.join(name), secret).unwrap();
    Text::parse(&format!("${{file:{name}}}"), folder).unwrap()
}

/// A specification with the caller `dashboards`, the role `analyst` and both kinds of signed tokens.
fn spec(folder: &Path) -> ServeSpec {
    let rule = TableRule {
        rows: Some("x > 0".into()),
        hide: ["y".to_owned()].into(),
        hash: ["z".to_owned()].into(),
    };
    let analyst = RoleSpec { tables: [("flights".to_owned(), rule)].into(), ..RoleSpec::default() };
    std::fs::write(folder.join("jwks.json"), KEY_SET).unwrap();
    ServeSpec {
        callers: vec![
            CallerSpec {
                name: "dashboards".into(),
                token: Some(text(folder, "dashboards", "token-of-dashboards")),
                certificate: Some("CN=dashboards".parse().unwrap()),
                role: Some("analyst".into()),
            },
            CallerSpec {
                name: "admin".into(),
                token: Some(text(folder, "admin", "token-of-the-admin")),
                certificate: None,
                role: None,
            },
        ],
        jwt: Some(JwtSpec {
            issuer: "https://issuer.example/".into(),
            audience: "isobar".into(),
            jwks: Some(folder.join("jwks.json")),
            secret: Some(text(folder, "shared", SHARED)),
            role_claim: "role".into(),
        }),
        roles: [("analyst".to_owned(), analyst), ("nobody".to_owned(), RoleSpec::default())].into(),
        ..ServeSpec::within(128 << 20)
    }
}

fn signed(claims: &Json) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SHARED.as_bytes())).unwrap()
}

fn edited(edit: impl FnOnce(&mut Json)) -> String {
    let mut claims = claims();
    edit(&mut claims);
    signed(&claims)
}

#[test]
fn without_callers_everybody_reads_everything() {
    let access = Access::open(&ServeSpec::within(1 << 30), &names(), [0; 32]).unwrap();
    assert!(access.is_open());
    for token in [None, Some(""), Some("anything")] {
        let caller = access.authenticate(token, NOW_S).unwrap();
        assert_eq!(caller.role.names.tables().len(), 4);
        assert!(caller.role.guard("flights").is_none());
    }
}

#[test]
fn a_caller_is_known_by_its_token_and_reads_what_its_role_says() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(&spec(folder.path()), &names(), [0; 32]).unwrap();
    assert!(!access.is_open());
    let caller = access.authenticate(Some("token-of-dashboards"), NOW_S).unwrap();
    assert_eq!(caller.name, "dashboards");
    let tables: Vec<&str> = caller.role.names.tables().into_iter().collect();
    assert_eq!(tables, ["flights"], "neither another dataset nor the quarantine");
    assert_eq!(caller.role.names.get("flights_quarantine"), None);
    let guard = caller.role.guard("flights").unwrap();
    assert_eq!(guard.rows.as_deref(), Some("x > 0"));
    assert!(guard.hidden.contains("y") && guard.hashed.contains("z"));
    let admin = access.authenticate(Some("token-of-the-admin"), NOW_S).unwrap();
    assert_eq!(admin.role.names.tables().len(), 4);
    assert!(admin.role.guard("flights").is_none());
    for wrong in [
        None,
        Some(""),
        Some("token-of-dashboard"),
        Some("token-of-dashboards "),
        Some("Token-of-dashboards"),
        Some("a.b.c"),
        Some(&*"x".repeat(TOKEN_BYTES_MAX + 1)),
    ] {
        let refused = access.authenticate(wrong, NOW_S).unwrap_err();
        assert!(matches!(refused, Refusal::Unauthenticated(_)), "{wrong:?}: {refused:?}");
        assert!(!refused.to_string().contains("dashboards"), "{refused}");
    }
}

#[test]
fn a_certificate_names_a_caller_and_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path());
    let robot = "URI:spiffe://example.com/robot".parse().unwrap();
    spec.callers.push(CallerSpec { name: "robot".into(), token: None, certificate: Some(robot), role: None });
    let access = Access::open(&spec, &names(), [0; 32]).unwrap();
    let shown = |token: Option<&str>, names: &[&str]| {
        let names: Vec<CertificateName> = names.iter().map(|name| name.parse().unwrap()).collect();
        access.recognise(token, &names, NOW_S).map(|caller| format!("{}/{}", caller.name, caller.role.name))
    };
    let (robot, dashboards) = ("URI:spiffe://example.com/robot", "CN=dashboards");
    assert_eq!(shown(None, &[dashboards]).unwrap(), "dashboards/analyst");
    assert_eq!(shown(Some(""), &["DNS:x", dashboards]).unwrap(), "dashboards/analyst");
    assert_eq!(shown(Some("token-of-dashboards"), &[dashboards]).unwrap(), "dashboards/analyst");
    assert_eq!(shown(None, &[robot]).unwrap(), "robot/everything");
    // A certificate that names nobody takes no token away.
    assert_eq!(shown(Some("token-of-the-admin"), &["CN=gateway"]).unwrap(), "admin/everything");
    assert_eq!(shown(Some(RS256), &["CN=gateway"]).unwrap(), "jo/analyst");
    for (token, names) in [
        (None, &["CN=gateway"][..]),
        (None, &[]),
        (None, &["DNS:dashboards", "email:dashboards", "CN=Dashboards", "CN=dashboards "]),
        (Some("token-of-the-admin"), &[dashboards]),
        (Some("token-of-nobody-here"), &[dashboards]),
        (Some(RS256), &[dashboards]),
        (None, &[dashboards, robot]),
        (Some("token-of-dashboards"), &[dashboards, robot]),
    ] {
        let refused = shown(token, names).unwrap_err();
        assert!(matches!(refused, Refusal::Unauthenticated(_)), "{token:?} {names:?}: {refused:?}");
    }
    spec.callers[1].certificate = spec.callers[0].certificate.clone();
    let error = Access::open(&spec, &names(), [0; 32]).unwrap_err().to_string();
    assert!(error.contains("dashboards and admin have the same certificate"), "{error}");
}

#[test]
fn a_role_with_all_may_still_have_guards() {
    let rule = TableRule { hide: ["y".to_owned()].into(), ..TableRule::default() };
    let spec = RoleSpec { all: true, tables: [("flights".to_owned(), rule)].into(), ..RoleSpec::default() };
    let role = Role::new("most", &spec, &names(), &[0; 32], &LimitsOfQueries::within(128 << 20));
    assert_eq!(role.names.tables().len(), 4);
    assert!(role.guard("flights").is_some() && role.guard("weather").is_none());
    assert_eq!(role.guards().count(), 1);
}

#[test]
fn signed_tokens_of_the_issuer_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(&spec(folder.path()), &names(), [0; 32]).unwrap();
    let in_a_list = edited(|claims| {
        claims["aud"] = json!(["other", "isobar"]);
        claims["role"] = json!(["other", "analyst"]);
    });
    for token in [RS256, ES256, &signed(&claims()), &in_a_list] {
        let caller =
            access.authenticate(Some(token), NOW_S).unwrap_or_else(|error| panic!("{token}: {error}"));
        assert_eq!((caller.name.as_str(), caller.role.name.as_str()), ("jo", "analyst"));
    }
    let noisy = edited(|claims| claims["sub"] = json!("a\n\u{7}b"));
    assert_eq!(access.authenticate(Some(&noisy), NOW_S).unwrap().name, "ab");
}

#[test]
fn other_signed_tokens_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let access = Access::open(&spec(folder.path()), &names(), [0; 32]).unwrap();
    let of = |part: usize, token: &str| token.split('.').nth(part).unwrap().to_owned();
    let mut wrong = vec![
        ("another issuer", edited(|claims| claims["iss"] = json!("https://other.example/"))),
        ("a list of issuers", edited(|claims| claims["iss"] = json!(["https://issuer.example/"]))),
        ("no issuer", edited(|claims| claims["iss"] = Json::Null)),
        ("another audience", edited(|claims| claims["aud"] = json!("other"))),
        ("an audience of a wrong type", edited(|claims| claims["aud"] = json!({ "isobar": true }))),
        ("expired", edited(|claims| claims["exp"] = json!(NOW_S - LEEWAY_S))),
        ("an end as text", edited(|claims| claims["exp"] = json!("2000000000"))),
        ("not yet", edited(|claims| claims["nbf"] = json!(NOW_S + LEEWAY_S + 1))),
        ("a beginning as text", edited(|claims| claims["nbf"] = json!("0"))),
        (
            "claims of another token",
            format!("{}.{}.{}", of(0, RS256), of(1, &edited(|c| c["sub"] = json!("x"))), of(2, RS256)),
        ),
        ("signature of another key", format!("{}.{}.{}", of(0, ES256), of(1, ES256), of(2, RS256))),
        ("no signature", format!("{}.{}.", of(0, RS256), of(1, RS256))),
        // {"alg":"none"}
        ("no algorithm", format!("eyJhbGciOiJub25lIn0.{}.", of(1, RS256))),
    ];
    for missing in ["iss", "aud", "exp"] {
        wrong.push((missing, edited(|claims| _ = claims.as_object_mut().unwrap().remove(missing))));
    }
    // The public key as the secret of a symmetric algorithm.
    let public = EncodingKey::from_secret(KEY_SET.as_bytes());
    let mut header = Header::new(Algorithm::HS256);
    header.kid = Some("r1".into());
    wrong.push(("the public key as a secret", encode(&header, &claims(), &public).unwrap()));
    let secret = EncodingKey::from_secret(SHARED.as_bytes());
    wrong.push(("HS512", encode(&Header::new(Algorithm::HS512), &claims(), &secret).unwrap()));
    for (why, token) in wrong {
        match access.authenticate(Some(&token), NOW_S) {
            Err(Refusal::Unauthenticated(_)) => {}
            found => panic!("{why}: {found:?}"),
        }
    }
    assert!(access.authenticate(Some(RS256), 2_000_000_000 + LEEWAY_S).is_err(), "time goes on");
}

#[test]
fn claims_that_name_no_role_or_several_are_forbidden() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path());
    let access = Access::open(&spec, &names(), [0; 32]).unwrap();
    for role in [Json::Null, json!("admin"), json!(7), json!([]), json!(["analyst", "nobody"]), json!({})] {
        let token = edited(|claims| claims["role"] = role.clone());
        let refused = access.authenticate(Some(&token), NOW_S).unwrap_err();
        assert!(matches!(refused, Refusal::Forbidden(_)), "{role}: {refused:?}");
    }
    // Without roles in the topology, a token is enough.
    spec.roles.clear();
    spec.callers.clear();
    let access = Access::open(&spec, &names(), [0; 32]).unwrap();
    assert_eq!(access.authenticate(Some(RS256), NOW_S).unwrap().role.names.tables().len(), 4);
    assert!(access.authenticate(None, NOW_S).is_err());
}

#[test]
fn keys_that_come_later_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let spec = spec(folder.path());
    let file = folder.path().join("jwks.json");
    let without = KEY_SET.replace("\"e1\"", "\"e0\"");
    std::fs::write(&file, without).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH;
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(long_ago).unwrap();
    let access = Access::open(&spec, &names(), [0; 32]).unwrap();
    assert!(access.authenticate(Some(ES256), NOW_S).is_err());
    std::fs::write(&file, KEY_SET).unwrap();
    assert!(access.authenticate(Some(ES256), NOW_S).is_ok());
    // A file that is broken meanwhile takes no key away.
    std::fs::write(&file, "{").unwrap();
    assert!(access.authenticate(Some(ES256), NOW_S).is_ok());
}

#[test]
fn what_is_no_secret_and_no_key_set_is_refused_without_being_shown() {
    let folder = tempfile::tempdir().unwrap();
    let refusal = |edit: &dyn Fn(&mut ServeSpec)| {
        let mut spec = spec(folder.path());
        edit(&mut spec);
        Access::open(&spec, &names(), [0; 32]).unwrap_err().to_string()
    };
    let short = text(folder.path(), "short", "hunter2");
    let spaced = text(folder.path(), "spaced", "hunter2 hunter2 hunter2");
    let absent = Text::parse("${file:nowhere}", folder.path()).unwrap();
    for (secret, said) in [(&short, "at least 16"), (&spaced, "visible"), (&absent, "nowhere")] {
        let error = refusal(&|spec| spec.callers[0].token = Some(secret.clone()));
        assert!(error.contains("serve.callers.dashboards.token") && error.contains(said), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(
        refusal(&|spec| spec.callers[1].token = spec.callers[0].token.clone()).contains("the same token")
    );
    assert!(refusal(&|spec| spec.jwt.as_mut().unwrap().secret = Some(short.clone())).contains("at least 32"));
    assert!(refusal(&|spec| spec.hash_key = Some(short.clone())).contains("serve.hash_key"));
    for (content, said) in [("{", "no key set"), ("{}", "no list"), (r#"{"keys": []}"#, "no key for")] {
        std::fs::write(folder.path().join("other.json"), content).unwrap();
        let error = refusal(&|spec| spec.jwt.as_mut().unwrap().jwks = Some(folder.path().join("other.json")));
        assert!(error.contains("serve.jwt.jwks") && error.contains(said), "{error}");
    }
}

#[test]
fn hashes_are_the_same_for_the_same_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = spec(folder.path());
    let key = |spec: &ServeSpec, random: u8| {
        let access = Access::open(spec, &names(), [random; 32]).unwrap();
        access.authenticate(Some("token-of-dashboards"), NOW_S).unwrap().role.guard("flights").unwrap().key
    };
    assert_ne!(key(&spec, 1), key(&spec, 2));
    spec.hash_key = Some(text(folder.path(), "hash", "0123456789abcdef"));
    assert_eq!(key(&spec, 1), key(&spec, 2));
}
