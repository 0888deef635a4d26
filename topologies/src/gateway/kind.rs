//! What requests are: of which kind, and whether they may be sent twice.

use axum::http::Method;

/// Kinds of requests whose times say something about one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// SQL.
    Query,
    /// Look-ups by key.
    LookUp,
    /// Inference.
    Inference,
    /// Everything else.
    Other,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Query, Self::LookUp, Self::Inference, Self::Other];

    /// That of a request to `path`.
    pub(super) fn of(path: &str) -> Self {
        let parts: Vec<&str> = path.strip_prefix('/').unwrap_or(path).split('/').collect();
        match parts.as_slice() {
            ["v1", "query"] => Self::Query,
            ["v1", "features"] | ["v1", "datasets", _, "features"] => Self::LookUp,
            ["v2", "models", _, "infer"] | ["v2", "models", _, "versions", _, "infer"] => Self::Inference,
            _ => Self::Other,
        }
    }

    /// Its name in metrics.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::LookUp => "look_up",
            Self::Inference => "inference",
            Self::Other => "other",
        }
    }

    /// Whether a request changes nothing, so that it may be sent twice.
    pub(super) fn is_repeatable(self, method: &Method) -> bool {
        match *method {
            Method::GET | Method::HEAD => true,
            Method::POST => self != Self::Other,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changes_nothing_is_repeated() {
        for (method, path, kind, is_repeatable) in [
            (Method::GET, "/v1/datasets", Kind::Other, true),
            (Method::HEAD, "/", Kind::Other, true),
            (Method::POST, "/v1/query", Kind::Query, true),
            (Method::PUT, "/v1/query", Kind::Query, false),
            (Method::DELETE, "/v1/datasets/flights/features", Kind::LookUp, false),
            (Method::POST, "/v1/datasets/flights/features", Kind::LookUp, true),
            (Method::POST, "/v1/features", Kind::LookUp, true),
            (Method::POST, "/v2/models/late/infer", Kind::Inference, true),
            (Method::POST, "/v2/models/late/versions/3/infer", Kind::Inference, true),
            (Method::POST, "/v2/models/late", Kind::Other, false),
            (Method::POST, "/v2/repository/models/late/load", Kind::Other, false),
            (Method::POST, "/v1/query/", Kind::Other, false),
            (Method::POST, "/v1/datasets/a/b/features", Kind::Other, false),
            (Method::POST, "/", Kind::Other, false),
            (Method::PATCH, "/v1/features", Kind::LookUp, false),
        ] {
            let found = Kind::of(path);
            assert_eq!((found, found.is_repeatable(&method)), (kind, is_repeatable), "{method} {path}");
        }
    }
}
