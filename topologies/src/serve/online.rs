//! Look-ups by key in `isobar serve`: the same callers as for queries.
//!
//! A look-up shows whole rows, so that a role that sees a part of a dataset does not get any: it has SQL.

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;

use super::http::caller;
use super::{Caller, Engine, Refusal};
use crate::online::OnlineViews;
use crate::online::http::{Access, Reads};

/// The endpoints of look-ups, for the callers of `engine`.
pub(super) fn router(engine: &Engine, views: OnlineViews) -> Router {
    crate::online::http::router(views, Arc::new(engine.clone()))
}

impl Access for Engine {
    fn reader(&self, request: &Request) -> Result<Box<dyn Reads>, Refusal> {
        Ok(Box::new(caller(self, request)?))
    }
}

impl Reads for Caller {
    fn may_read(&self, dataset: &str) -> Result<(), Refusal> {
        self.may_read_all_of(dataset)
    }
}
