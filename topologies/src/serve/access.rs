//! Who asks, and what they may see.
//!
//! A caller shows a token: one that the specification refers to, or signed claims (JWT) of an issuer that it names; or a certificate
//! with a name that the specification has. Tokens are kept and compared as digests, all of them each time. A signature is checked
//! with the key that its algorithm is for and no other: HS256 with the shared secret, RS256 and ES256 with a key of the key set;
//! `none` and everything else is refused.
//!
//! A role is a list of tables, each with what is seen of it ([`Guard`]). A table that is not in the list has no name for the
//! role, so that nothing can tell it from one that does not exist. Whatever is wrong with a role refuses the question.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde_json::{Map, Value as Json};
use sha2::{Digest, Sha256};
use tracing::warn;

use super::Refusal;
use super::gate::Gate;
use crate::error::Error;
use crate::query::{Guard, Names};
use crate::spec::certificate::CertificateName;
use crate::spec::serve::{JwtSpec, RoleSpec};
use crate::spec::{LimitsOfQueries, ServeSpec, Text};

/// Shorter tokens can be guessed.
const TOKEN_CHARACTERS_MIN: usize = 16;
/// Shorter secrets of HS256 can be guessed from a token.
const SECRET_CHARACTERS_MIN: usize = 32;
/// Longer ones are not looked at.
const TOKEN_BYTES_MAX: usize = 16 << 10;
/// Largest key set.
const KEY_SET_BYTES_MAX: u64 = 1 << 20;
/// How far the clocks of issuer and server may be apart, seconds.
const LEEWAY_S: u64 = 60;
/// What logs show of a name that somebody else has given.
const NAME_CHARACTERS_MAX: usize = 100;

/// Somebody who asks, after authentication.
#[derive(Clone, Debug)]
pub struct Caller {
    /// What logs call the caller.
    pub name: String,
    /// What it may read.
    pub(super) role: Arc<Role>,
}

impl Caller {
    /// What one of its queries may use.
    pub fn limits(&self) -> &LimitsOfQueries {
        &self.role.limits
    }

    /// Whether it may ask this model.
    pub(super) fn may_ask(&self, model: &str) -> bool {
        match &self.role.models {
            Some(models) => models.contains(model),
            None => self.role.all,
        }
    }

    /// Whether all rows and columns of `table` are seen as they are.
    pub(super) fn may_read_all_of(&self, table: &str) -> Result<(), Refusal> {
        if self.role.names.get(table).is_none() {
            return Err(Refusal::NotFound(format!("there is no dataset {table}")));
        }
        match self.role.guard(table) {
            Some(guard) if !guard.is_open() => Err(Refusal::Forbidden(format!(
                "the role {} sees a part of {table} only, and look-ups show whole rows: ask with SQL",
                self.role.name
            ))),
            _ => Ok(()),
        }
    }
}

/// What callers of one role may read.
#[derive(Debug)]
pub(super) struct Role {
    /// For people.
    pub(super) name: String,
    /// The tables that exist for it.
    pub(super) names: Names,
    /// Whether it reads everything that it does not see in another way.
    all: bool,
    /// The models that it may ask, where that does not follow from `all`.
    models: Option<BTreeSet<String>>,
    /// What is seen of tables of which not everything is.
    guards: BTreeMap<String, Guard>,
    /// Bounds of its queries.
    pub(super) limits: LimitsOfQueries,
    /// The places of its queries, where it has its own.
    pub(super) gate: Option<Gate>,
}

impl Role {
    /// `general` are the limits where the role says nothing.
    fn new(name: &str, spec: &RoleSpec, names: &Names, key: &[u8; 32], general: &LimitsOfQueries) -> Self {
        let is_seen = |table: &str| spec.all || spec.tables.contains_key(table);
        let guard = |rule: &crate::spec::serve::TableRule| Guard {
            rows: rule.rows.clone(),
            hidden: rule.hide.clone(),
            hashed: rule.hash.clone(),
            key: *key,
        };
        let guards = spec.tables.iter().map(|(table, rule)| (table.clone(), guard(rule)));
        let guards = guards.filter(|(_, guard)| !guard.is_open()).collect();
        let limits = spec.limits.unwrap_or(*general);
        let gate = spec.has_places.then(|| Gate::new(&limits));
        let (names, models) = (names.only(is_seen), spec.models.clone());
        Self { name: name.to_owned(), names, all: spec.all, models, guards, limits, gate }
    }

    /// What is seen of `table`, where that is not everything.
    pub(super) fn guard(&self, table: &str) -> Option<&Guard> {
        self.guards.get(table)
    }

    /// All guards, by table.
    pub(super) fn guards(&self) -> impl Iterator<Item = (&String, &Guard)> {
        self.guards.iter()
    }
}

/// Everybody who may ask.
#[derive(Debug)]
pub(super) struct Access {
    callers: Vec<KnownCaller>,
    jwt: Option<Jwt>,
    roles: BTreeMap<String, Arc<Role>>,
    everything: Arc<Role>,
}

struct KnownCaller {
    name: String,
    token_sha256: Option<[u8; 32]>,
    certificate: Option<CertificateName>,
    role: Arc<Role>,
}

impl KnownCaller {
    /// Whether its certificate has one of these names.
    fn is_named(&self, names: &[CertificateName]) -> bool {
        self.certificate.as_ref().is_some_and(|name| names.contains(name))
    }

    fn known(&self) -> Caller {
        Caller { name: self.name.clone(), role: self.role.clone() }
    }
}

impl std::fmt::Debug for KnownCaller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownCaller").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Access {
    /// What `spec` says, its secrets looked up now. `names` are all tables; `key` is what hashes are keyed with if the
    /// specification has no key.
    ///
    /// # Errors
    /// [`Error::Configuration`] for a reference that leads nowhere, and for a token or a key that is none.
    pub(super) fn open(spec: &ServeSpec, names: &Names, key: [u8; 32]) -> Result<Self, Error> {
        let key = match &spec.hash_key {
            Some(text) => Sha256::digest(secret(text, "serve.hash_key", TOKEN_CHARACTERS_MIN)?).into(),
            None => key,
        };
        let everything = RoleSpec { all: true, ..RoleSpec::default() };
        let everything = Arc::new(Role::new("everything", &everything, names, &key, &spec.limits));
        let roles: BTreeMap<String, Arc<Role>> = spec
            .roles
            .iter()
            .map(|(name, role)| (name.clone(), Arc::new(Role::new(name, role, names, &key, &spec.limits))))
            .collect();
        let mut callers: Vec<KnownCaller> = Vec::new();
        for caller in &spec.callers {
            let token_sha256 =
                caller.token.as_ref().map(|token| digest_of(token, &caller.name)).transpose()?;
            let certificate = caller.certificate.clone();
            let same = |what: &str, other: &KnownCaller| {
                Err(Error::Configuration(format!(
                    "the callers {} and {} have the same {what}: give each its own",
                    other.name, caller.name
                )))
            };
            for other in &callers {
                if token_sha256.is_some() && other.token_sha256 == token_sha256 {
                    return same("token", other);
                }
                if certificate.is_some() && other.certificate == certificate {
                    return same("certificate", other);
                }
            }
            let role = match &caller.role {
                None => everything.clone(),
                Some(role) => roles.get(role).cloned().ok_or_else(|| {
                    Error::Configuration(format!("caller {}: there is no role {role}", caller.name))
                })?,
            };
            callers.push(KnownCaller { name: caller.name.clone(), token_sha256, certificate, role });
        }
        let jwt = spec.jwt.as_ref().map(Jwt::open).transpose()?;
        Ok(Self { callers, jwt, roles, everything })
    }

    /// Whether everybody reads everything.
    pub(super) fn is_open(&self) -> bool {
        self.callers.is_empty() && self.jwt.is_none()
    }

    /// Every role that somebody may have.
    pub(super) fn roles(&self) -> impl Iterator<Item = &Arc<Role>> {
        self.roles.values()
    }

    /// Whether a certificate with these names is that of a caller.
    pub(super) fn has_named(&self, names: &[CertificateName]) -> bool {
        self.callers.iter().any(|caller| caller.is_named(names))
    }

    /// Who shows `token`, a certificate with these `names`, or both, at `now_s` seconds since the Unix epoch. A certificate that names
    /// a caller is that caller's alone: a token of somebody else beside it is refused, as one that went astray.
    ///
    /// # Errors
    /// Those of [`authenticate`](Self::authenticate), and [`Refusal::Unauthenticated`] if the two are of different callers.
    pub(super) fn recognise(
        &self,
        token: Option<&str>,
        names: &[CertificateName],
        now_s: u64,
    ) -> Result<Caller, Refusal> {
        let mut named = self.callers.iter().filter(|caller| caller.is_named(names));
        let caller = match (named.next(), named.next()) {
            (None, _) => return self.authenticate(token, now_s),
            (Some(caller), None) => caller,
            (Some(_), Some(_)) => {
                let why = "the certificate has the names of several callers of this server";
                return Err(Refusal::Unauthenticated(why.to_owned()));
            }
        };
        match token.filter(|token| !token.is_empty()) {
            Some(token) if self.of_token(token).is_none_or(|other| !std::ptr::eq(other, caller)) => {
                let why =
                    "the token is not one of the caller whom the certificate names: show one of the two";
                Err(Refusal::Unauthenticated(why.to_owned()))
            }
            _ => Ok(caller.known()),
        }
    }

    /// Who shows `token`, at `now_s` seconds since the Unix epoch.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] if it is no token; [`Refusal::Forbidden`] if its claims name no role.
    pub(super) fn authenticate(&self, token: Option<&str>, now_s: u64) -> Result<Caller, Refusal> {
        if self.is_open() {
            return Ok(Caller { name: "anonymous".to_owned(), role: self.everything.clone() });
        }
        let Some(token) = token.filter(|token| !token.is_empty()) else {
            let why = "a token is needed: `Authorization: Bearer TOKEN`, or as the password";
            return Err(Refusal::Unauthenticated(why.to_owned()));
        };
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::Unauthenticated(format!("a token has at most {TOKEN_BYTES_MAX} bytes")));
        }
        if let Some(caller) = self.of_token(token) {
            return Ok(caller.known());
        }
        match self.jwt.as_ref().filter(|_| token.split('.').count() == 3) {
            Some(jwt) => self.of_claims(jwt, &jwt.claims(token, now_s)?),
            None => Err(Refusal::Unauthenticated("the token is not known here".to_owned())),
        }
    }

    /// The caller whose token this is. Takes as long for every other text of this length.
    fn of_token(&self, token: &str) -> Option<&KnownCaller> {
        let shown: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for caller in &self.callers {
            let Some(token_sha256) = &caller.token_sha256 else { continue };
            if crate::is_shown(token_sha256, &shown) {
                found = Some(caller);
            }
        }
        found
    }

    fn of_claims(&self, jwt: &Jwt, claims: &Map<String, Json>) -> Result<Caller, Refusal> {
        let subject = claims.get("sub").and_then(Json::as_str).unwrap_or("jwt");
        let name = subject.chars().filter(|c| !c.is_control()).take(NAME_CHARACTERS_MAX).collect();
        if self.roles.is_empty() {
            return Ok(Caller { name, role: self.everything.clone() });
        }
        let named: Vec<&str> = match claims.get(&jwt.role_claim) {
            Some(Json::String(role)) => vec![role],
            Some(Json::Array(roles)) => roles.iter().filter_map(Json::as_str).collect(),
            _ => Vec::new(),
        };
        let mut roles = named.iter().filter_map(|role| self.roles.get(*role));
        match (roles.next(), roles.next()) {
            (Some(role), None) => Ok(Caller { name, role: role.clone() }),
            (Some(_), Some(_)) => Err(Refusal::Forbidden(format!(
                "the claim `{}` names several roles of this server: ask for a token with one",
                jwt.role_claim
            ))),
            (None, _) => Err(Refusal::Forbidden(format!(
                "the claim `{}` names no role of this server",
                jwt.role_claim
            ))),
        }
    }
}

/// The digest of a caller's token.
fn digest_of(token: &Text, caller: &str) -> Result<[u8; 32], Error> {
    let place = format!("serve.callers.{caller}.token");
    let token = secret(token, &place, TOKEN_CHARACTERS_MIN)?;
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(no_secret(&place, TOKEN_CHARACTERS_MIN));
    }
    Ok(Sha256::digest(token).into())
}

/// The secret that `text` refers to.
fn secret(text: &Text, place: &str, characters_min: usize) -> Result<String, Error> {
    let secret = text
        .resolve()
        .map_err(|error| Error::Configuration(format!("{place}: {}", crate::chain_of(&error))))?;
    if secret.expose().len() < characters_min {
        return Err(no_secret(place, characters_min));
    }
    Ok(secret.expose().to_owned())
}

fn no_secret(place: &str, characters_min: usize) -> Error {
    Error::Configuration(format!(
        "{place} leads to none that is safe: it has at least {characters_min} visible ASCII characters, such as `openssl rand -hex 32` \
         prints"
    ))
}

/// What is needed to check the tokens of an issuer.
struct Jwt {
    issuer: String,
    audience: String,
    role_claim: String,
    secret: Option<DecodingKey>,
    key_set: Option<KeySet>,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("issuer", &self.issuer).finish_non_exhaustive()
    }
}

impl Jwt {
    fn open(spec: &JwtSpec) -> Result<Self, Error> {
        let shared = spec.secret.as_ref();
        let shared =
            shared.map(|text| secret(text, "serve.jwt.secret", SECRET_CHARACTERS_MIN)).transpose()?;
        let key_set = spec.jwks.clone().map(KeySet::open).transpose()?;
        Ok(Self {
            issuer: spec.issuer.clone(),
            audience: spec.audience.clone(),
            role_claim: spec.role_claim.clone(),
            secret: shared.map(|secret| DecodingKey::from_secret(secret.as_bytes())),
            key_set,
        })
    }

    /// The claims of a token that holds at `now_s`.
    fn claims(&self, token: &str, now_s: u64) -> Result<Map<String, Json>, Refusal> {
        let refuse = |why: &str| Refusal::Unauthenticated(format!("the token is not valid: {why}"));
        let header = decode_header(token).map_err(|_| refuse("its header cannot be read"))?;
        let key = match header.alg {
            Algorithm::HS256 => self.secret.clone(),
            Algorithm::RS256 | Algorithm::ES256 => {
                self.key_set.as_ref().and_then(|keys| keys.find(header.alg, header.kid.as_deref()))
            }
            _ => None,
        };
        let key = key.ok_or_else(|| refuse("this server has no key for its algorithm and key id"))?;
        let mut validation = Validation::new(header.alg);
        validation.leeway = LEEWAY_S;
        validation.set_audience(&[&self.audience]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss"]);
        // Times are compared below, with the time that is given and as numbers.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        let decoded = decode::<Map<String, Json>>(token, &key, &validation);
        let claims = decoded.map_err(|error| refuse(&error.to_string()))?.claims;
        let time = |claim: &str| claims.get(claim).map(|value| value.as_f64().ok_or(()));
        let (now, leeway) = (now_s as f64, LEEWAY_S as f64);
        match time("exp") {
            Some(Ok(expires)) if now < expires + leeway => {}
            Some(Ok(_)) => return Err(refuse("it has expired")),
            _ => return Err(refuse("the claim `exp` is no time")),
        }
        match time("nbf") {
            None => {}
            Some(Ok(begins)) if begins <= now + leeway => {}
            _ => return Err(refuse("it is not valid yet")),
        }
        // Not only present, but texts: what cannot be read is not compared by the library.
        if claims.get("iss").and_then(Json::as_str) != Some(&self.issuer) {
            return Err(refuse("the claim `iss` is another one"));
        }
        let is_for_us = match claims.get("aud") {
            Some(Json::String(audience)) => *audience == self.audience,
            Some(Json::Array(audiences)) => audiences.iter().any(|one| one.as_str() == Some(&self.audience)),
            _ => false,
        };
        if !is_for_us {
            return Err(refuse("the claim `aud` is another one"));
        }
        Ok(claims)
    }
}

/// The public keys of an issuer, in a file.
struct KeySet {
    file: PathBuf,
    keys: Mutex<Keys>,
}

struct Keys {
    modified: Option<SystemTime>,
    keys: Vec<PublicKey>,
}

#[derive(Clone)]
struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl KeySet {
    fn open(file: PathBuf) -> Result<Self, Error> {
        let keys = Keys::read(&file)
            .map_err(|why| Error::Configuration(format!("serve.jwt.jwks: {}: {why}", file.display())))?;
        Ok(Self { file, keys: Mutex::new(keys) })
    }

    /// The key of this id; without an id, the only one for the algorithm. The file is read again if it has changed since.
    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<DecodingKey> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if modified(&self.file) != keys.modified {
            match Keys::read(&self.file) {
                Ok(read) => *keys = read,
                Err(why) => warn!(file = %self.file.display(), why, "the key set cannot be read again"),
            }
        }
        keys.find(algorithm, id)
    }
}

fn modified(file: &std::path::Path) -> Option<SystemTime> {
    std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok()
}

impl Keys {
    fn read(file: &std::path::Path) -> Result<Self, String> {
        use std::io::Read;
        let modified = modified(file);
        let mut text = String::new();
        let opened = std::fs::File::open(file).map_err(|error| error.to_string())?;
        let read = opened.take(KEY_SET_BYTES_MAX + 1).read_to_string(&mut text);
        read.map_err(|error| error.to_string())?;
        if text.len() as u64 > KEY_SET_BYTES_MAX {
            return Err(format!("a key set has at most {KEY_SET_BYTES_MAX} bytes"));
        }
        let set: Json = serde_json::from_str(&text).map_err(|error| format!("no key set: {error}"))?;
        let listed = set.get("keys").and_then(Json::as_array).ok_or("no key set: there is no list `keys`")?;
        // Keys of other kinds are no concern of ours.
        let keys: Vec<PublicKey> = listed.iter().filter_map(PublicKey::parse).collect();
        if keys.is_empty() {
            return Err("there is no key for RS256 or ES256 in it".to_owned());
        }
        Ok(Self { modified, keys })
    }

    fn find(&self, algorithm: Algorithm, id: Option<&str>) -> Option<DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).map(|key| key.key.clone()),
            None => {
                let first = fitting.next()?;
                fitting.next().is_none().then(|| first.key.clone())
            }
        }
    }
}

impl PublicKey {
    fn parse(json: &Json) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(json.clone()).ok()?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => Algorithm::ES256,
            _ => return None,
        };
        let named = json.get("alg").and_then(Json::as_str);
        let is_for_it =
            named.is_none_or(|named| named.parse::<Algorithm>().is_ok_and(|named| named == algorithm));
        let is_for_signatures =
            jwk.common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        (is_for_it && is_for_signatures).then(|| Self { id: jwk.common.key_id.clone(), algorithm, key })
    }
}

#[cfg(test)]
mod tests;
