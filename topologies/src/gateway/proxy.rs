//! The HTTP side of a gateway: what it answers itself, and what it hands on.

use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::client::{Client, Failure};
use crate::door::{Answers, Peer};
use crate::http::shown_metrics;
use crate::serve::{PROBLEM_TYPE, is_for_this_machine};

const FORWARDED_FOR: &str = "x-forwarded-for";
const FORWARDED_PROTO: &str = "x-forwarded-proto";

/// Answers requests.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    client: Client,
    shutdown: CancellationToken,
    /// What requests that came through here say of that (RFC 9110, 7.6.3).
    via: HeaderValue,
}

impl Proxy {
    /// That of `client`, until `shutdown`.
    pub(crate) fn new(client: Client, shutdown: CancellationToken) -> Self {
        let via = format!("1.1 isobar-gateway-{:016x}", rand::random::<u64>());
        let via = HeaderValue::try_from(via).expect("letters, digits and signs of a token");
        Self { client, shutdown, via }
    }

    fn ready(&self) -> Response {
        let why = match (self.shutdown.is_cancelled(), self.client.is_ready()) {
            (true, _) => "stopping\n",
            (false, false) => "no backend is up\n",
            (false, true) => return "ready\n".into_response(),
        };
        (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
    }

    async fn forward(&self, peer: Peer, mut request: Request) -> Response {
        // Which one counts, not everybody would say alike (RFC 9112, 3.2).
        if request.headers().get_all(header::HOST).iter().nth(1).is_some() {
            return refused(&Failure::Wrong("the request has more than one `Host`".to_owned()));
        }
        if is_misdirected(request.headers(), &peer) {
            let why = "from another machine, ask for the gateway by its name";
            return problem(StatusCode::FORBIDDEN, "forbidden", "not allowed", why);
        }
        if has_been_here(request.headers(), &self.via) {
            let why = "a backend of this gateway leads back to it: take it out of the file";
            return problem(StatusCode::LOOP_DETECTED, "loop", "the request goes in a circle", why);
        }
        announce(request.headers_mut(), &peer);
        request.headers_mut().append(header::VIA, self.via.clone());
        match self.client.send(request).await {
            Ok(answer) => answer,
            Err(failure) => refused(&failure),
        }
    }
}

impl Answers for Proxy {
    fn time(&self) -> Option<Duration> {
        Some(self.client.0.spec.time)
    }

    async fn answer(&self, peer: Peer, request: Request) -> Response {
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match request.uri().path() {
            "/healthz" if is_read => "ok\n".into_response(),
            "/readyz" if is_read => self.ready(),
            "/metrics" if is_read => shown_metrics(self.client.metrics()),
            _ => self.forward(peer, request).await,
        }
    }
}

/// Whether somebody on another machine asks as if it was this one. A server without tokens takes such names for a sign that somebody on
/// its own machine asks.
fn is_misdirected(headers: &HeaderMap, peer: &Peer) -> bool {
    !peer.address.is_loopback() && is_for_this_machine(headers)
}

/// Whether a request with these headers came through here before.
fn has_been_here(headers: &HeaderMap, via: &HeaderValue) -> bool {
    let values = headers.get_all(header::VIA).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|hop| hop.trim().as_bytes() == via.as_bytes())
}

/// Says in `headers` who asks.
fn announce(headers: &mut HeaderMap, peer: &Peer) {
    let before = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let mut chain: Vec<String> = before.map(str::to_owned).collect();
    chain.push(peer.address.to_string());
    // What was a header is one again.
    if let Ok(value) = HeaderValue::try_from(chain.join(", ")) {
        headers.insert(FORWARDED_FOR, value);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(if peer.has_tls { "https" } else { "http" }));
}

fn refused(failure: &Failure) -> Response {
    let why = failure.to_string();
    match failure {
        Failure::Unavailable(_) => {
            problem(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "no answer now", &why)
        }
        Failure::Broken(_) => problem(StatusCode::BAD_GATEWAY, "broken", "the answer broke off", &why),
        Failure::Late => problem(StatusCode::GATEWAY_TIMEOUT, "late", "no answer in time", &why),
        Failure::Wrong(_) => problem(StatusCode::BAD_REQUEST, "wrong", "the request is wrong", &why),
    }
}

/// A problem document (RFC 9457), as servers have them.
fn problem(status: StatusCode, outcome: &str, title: &str, detail: &str) -> Response {
    let problem = json!({
        "type": format!("urn:isobar:problem:{outcome}"),
        "title": title,
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response =
        (status, [(header::CONTENT_TYPE, PROBLEM_TYPE)], format!("{problem}\n")).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::PeerNames;

    /// Somebody without TLS.
    fn peer_at(address: &str) -> Peer {
        Peer { address: address.parse().unwrap(), has_tls: false, names: PeerNames::default() }
    }

    #[test]
    fn nobody_elsewhere_asks_for_this_machine() {
        for (peer, host, expected) in [
            ("192.0.2.7", Some("localhost:8190"), true),
            ("192.0.2.7", Some("127.0.0.1"), true),
            ("192.0.2.7", Some("[::1]:8190"), true),
            ("192.0.2.7", None, true),
            ("192.0.2.7", Some("gateway.example"), false),
            ("127.0.0.1", Some("localhost:8190"), false),
            ("::1", None, false),
        ] {
            let host = host.map(|host| (header::HOST, HeaderValue::from_static(host)));
            let peer = peer_at(peer);
            assert_eq!(is_misdirected(&HeaderMap::from_iter(host), &peer), expected, "{peer:?}");
        }
    }

    #[test]
    fn a_request_that_goes_in_a_circle_is_known() {
        let (here, elsewhere) = (HeaderValue::from_static("1.1 here"), HeaderValue::from_static("1.1 there"));
        let mut headers = HeaderMap::new();
        headers.append(header::VIA, HeaderValue::from_static("1.0 a, 1.1 here"));
        headers.append(header::VIA, HeaderValue::from_static("1.1 b"));
        assert!(has_been_here(&headers, &here) && !has_been_here(&headers, &elsewhere));
    }

    #[test]
    fn who_asks_is_added_behind_those_before() {
        let mut headers = HeaderMap::new();
        for value in ["10.0.0.1", "10.0.0.2, 10.0.0.3"] {
            headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
        }
        let peer = peer_at("192.0.2.7");
        announce(&mut headers, &Peer { has_tls: true, ..peer.clone() });
        let chains: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        assert_eq!(chains, ["10.0.0.1, 10.0.0.2, 10.0.0.3, 192.0.2.7"]);
        assert_eq!(headers[FORWARDED_PROTO], "https");
        let mut headers = HeaderMap::new();
        announce(&mut headers, &peer);
        assert_eq!(headers[FORWARDED_FOR], "192.0.2.7");
        assert_eq!(headers[FORWARDED_PROTO], "http");
    }
}
