//! Look-ups by key in `isobar serve`: the same callers as for queries.
//!
//! A look-up shows whole rows, so that a role that sees a part of a dataset does not get any: it has SQL.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::http::{Extensions, HeaderMap};

use super::http::caller;
use super::{Caller, Engine, Refusal};
use crate::online::OnlineViews;
use crate::online::http::{Access, Reads};

/// The endpoints of look-ups, for the callers of `engine`.
pub(super) fn router(engine: &Engine, views: OnlineViews) -> Router {
    crate::online::http::router(views, Arc::new(engine.clone()))
}

#[async_trait]
impl Access for Engine {
    async fn reader(&self, headers: &HeaderMap, connection: &Extensions) -> Result<Box<dyn Reads>, Refusal> {
        Ok(Box::new(caller(self, headers, connection)?))
    }
}

impl Reads for Caller {
    fn may_read(&self, dataset: &str) -> Result<(), Refusal> {
        self.may_read_all_of(dataset)
    }
}
