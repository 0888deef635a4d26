//! Look-ups by key in `isobar serve`: the same callers as for queries.
//!
//! A look-up shows whole rows, so that a role that sees a part of a dataset does not get any: it has SQL.

use std::sync::Arc;

use async_trait::async_trait;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};

use super::http::refuse_other_hosts;
use super::{Engine, Refusal};
use crate::online::OnlineViews;
use crate::online::http::{Access, Denied};

/// The endpoints of look-ups, for the callers of `engine`.
pub(super) fn router(engine: &Engine, views: OnlineViews) -> Router {
    let look_ups = crate::online::http::router(views, Arc::new(Callers(engine.clone())));
    look_ups.layer(middleware::from_fn_with_state(engine.clone(), only_for_this_machine))
}

async fn only_for_this_machine(State(engine): State<Engine>, request: Request, next: Next) -> Response {
    match refuse_other_hosts(&engine, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

struct Callers(Engine);

#[async_trait]
impl Access for Callers {
    async fn may_read(&self, token: Option<&str>, dataset: &str) -> Result<(), Denied> {
        let caller = self.0.authenticate(token).await.map_err(denied)?;
        caller.may_read_all_of(dataset).map_err(denied)
    }
}

fn denied(refusal: Refusal) -> Denied {
    match refusal {
        Refusal::Unauthenticated(why) => Denied::Unauthenticated(why),
        Refusal::NotFound(why) => Denied::NotFound(why),
        Refusal::Forbidden(why) | Refusal::Wrong(why) => Denied::Forbidden(why),
        Refusal::TooMuch { message, .. } => Denied::Unavailable(message),
        Refusal::Unavailable(why) | Refusal::Internal(why) => Denied::Unavailable(why),
    }
}
