//! What goes wrong, and when: a script of rules, each a fault and the requests that it befalls.
//!
//! The first rule that fits a request and is not used up decides. Chances are drawn from one seeded generator, so that
//! the same requests in the same order meet the same faults.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::{Method, StatusCode};

use super::message::Refusal;
use super::protocol::Protocol;
use crate::prng::Prng;

/// One way of going wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// 500, and nothing is done.
    ErrorBefore,
    /// The request is carried out, and then answered with 500.
    ErrorAfter,
    /// The connection is closed, and nothing is done.
    DropBefore,
    /// The request is carried out, and the connection closed without an answer.
    DropAfter,
    /// Nothing is done, and no answer comes.
    HangBefore,
    /// The request is carried out, and no answer comes.
    HangAfter,
    /// No answer comes, and the request is carried out when the test says so (`Simulator::carry_out_late`), whether or not
    /// its sender is still there: a write that is under way while its writer has long given up.
    HoldBack,
    /// The request is carried out and answered after this delay.
    Delay(Duration),
    /// 409, and nothing is stored: what S3 answers to some who race, and Azure while a container is being deleted.
    Conflict,
    /// 412, and nothing is stored, whatever the request's conditions are.
    PreconditionFailed,
    /// The credentials were good once: 400 `ExpiredToken` in S3, 401 in Azure and Google.
    CredentialsExpired,
    /// The credentials are no good: 403 in all three.
    CredentialsRefused,
    /// Too many requests: 503 `SlowDown` in S3, 503 `ServerBusy` in Azure, 429 in Google, to be repeated after so many
    /// seconds.
    SlowDown(u64),
    /// The first half of the answer's body, and then the connection is closed.
    TruncateBody,
    /// The first half of the answer's body, with a `Content-Length` that calls it the whole.
    ShortenBody,
    /// One bit in the middle of the answer's body is another.
    FlipBit,
    /// So many bytes a second, there and back. A request that is given up on its way is not carried out.
    Slow(u64),
    /// The conditions of the request are ignored.
    IgnorePreconditions,
}

/// A fault and the requests that it befalls: all of them, unless said otherwise.
#[derive(Debug, Clone)]
pub struct Rule {
    fault: Fault,
    protocol: Option<Protocol>,
    methods: Vec<Method>,
    key_part: String,
    skip: u64,
    times: Option<u64>,
    percent: u64,
    hits: u64,
}

impl Rule {
    /// Every request meets this fault.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            protocol: None,
            methods: Vec::new(),
            key_part: String::new(),
            skip: 0,
            times: None,
            percent: 100,
            hits: 0,
        }
    }

    /// Only in this cloud.
    pub fn on(mut self, protocol: Protocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    /// Only this method; given several times, any of them.
    pub fn method(mut self, method: Method) -> Self {
        self.methods.push(method);
        self
    }

    /// Only where the object's name, or a listing's prefix, contains this.
    pub fn key(mut self, part: &str) -> Self {
        self.key_part = part.to_owned();
        self
    }

    /// Not the first so many of the requests that fit.
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// At most so many requests.
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    /// With this probability each, in percent.
    pub fn chance(mut self, percent: u64) -> Self {
        self.percent = percent;
        self
    }

    fn fits(&self, protocol: Protocol, method: &Method, key: &str) -> bool {
        self.protocol.is_none_or(|wanted| wanted == protocol)
            && (self.methods.is_empty() || self.methods.contains(method))
            && key.contains(&self.key_part)
            && self.times.is_none_or(|times| self.hits < times)
    }

    /// Whether a request that fits meets the fault.
    fn strikes(&mut self, prng: &mut Prng) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        let strikes = prng.chance(self.percent);
        self.hits += u64::from(strikes);
        strikes
    }
}

/// The rules in force. May be changed at any time; requests under way keep the fault that they met.
#[derive(Debug)]
pub struct Faults {
    script: Mutex<Script>,
}

#[derive(Debug)]
struct Script {
    rules: Vec<Rule>,
    prng: Prng,
}

impl Faults {
    pub(super) fn new(prng: Prng) -> Self {
        Self { script: Mutex::new(Script { rules: Vec::new(), prng }) }
    }

    fn lock(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// From now on, only this rule.
    pub fn set(&self, rule: Rule) {
        self.lock().rules = vec![rule];
    }

    /// From now on, nothing goes wrong.
    pub fn clear(&self) {
        self.lock().rules.clear();
    }

    /// How many requests have met the rules in force.
    pub fn hits(&self) -> u64 {
        self.lock().rules.iter().map(|rule| rule.hits).sum()
    }

    pub(super) fn draw(&self, protocol: Protocol, method: &Method, key: &str) -> Option<Fault> {
        let mut script = self.lock();
        let Script { rules, prng } = &mut *script;
        let mut fitting = rules.iter_mut().filter(|rule| rule.fits(protocol, method, key));
        fitting.find_map(|rule| rule.strikes(prng).then_some(rule.fault))
    }
}

impl Fault {
    /// What is answered in place of what was asked for, if the fault is an answer.
    pub(super) fn refusal(self, protocol: Protocol) -> Option<Refusal> {
        use Protocol::{Azure, Gcs, S3};
        let (status, code) = match (self, protocol) {
            (Fault::ErrorBefore | Fault::ErrorAfter, _) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "InternalError")
            }
            (Fault::Conflict, S3) => (StatusCode::CONFLICT, "ConditionalRequestConflict"),
            (Fault::Conflict, Azure) => (StatusCode::CONFLICT, "ContainerBeingDeleted"),
            (Fault::Conflict, Gcs) => (StatusCode::CONFLICT, "Conflict"),
            (Fault::PreconditionFailed, Azure) => (StatusCode::PRECONDITION_FAILED, "ConditionNotMet"),
            (Fault::PreconditionFailed, S3 | Gcs) => (StatusCode::PRECONDITION_FAILED, "PreconditionFailed"),
            (Fault::CredentialsExpired, S3) => (StatusCode::BAD_REQUEST, "ExpiredToken"),
            (Fault::CredentialsExpired, Azure) => (StatusCode::UNAUTHORIZED, "InvalidAuthenticationInfo"),
            (Fault::CredentialsExpired, Gcs) => (StatusCode::UNAUTHORIZED, "AuthenticationRequired"),
            (Fault::CredentialsRefused, S3) => (StatusCode::FORBIDDEN, "InvalidAccessKeyId"),
            (Fault::CredentialsRefused, Azure) => (StatusCode::FORBIDDEN, "AuthenticationFailed"),
            (Fault::CredentialsRefused, Gcs) => (StatusCode::FORBIDDEN, "AccessDenied"),
            (Fault::SlowDown(_), S3) => (StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
            (Fault::SlowDown(_), Azure) => (StatusCode::SERVICE_UNAVAILABLE, "ServerBusy"),
            (Fault::SlowDown(_), Gcs) => (StatusCode::TOO_MANY_REQUESTS, "SlowDown"),
            _ => return None,
        };
        let mut refusal = Refusal::new(status, code, "simulated fault");
        if let Fault::SlowDown(seconds) = self {
            refusal.retry_after = Some(seconds);
        }
        Some(refusal)
    }
}
