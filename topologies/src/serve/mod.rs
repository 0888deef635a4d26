//! `isobar serve`: the datasets of a topology for programs, by HTTP and other protocols.
//!
//! ```text
//! HTTP ────────┐
//! PostgreSQL ──┼─▶ Engine: authenticate ─▶ prepare (parse, pin, plan) ─▶ run ─▶ rows
//! Flight SQL ──┘
//! ```

mod engine;
pub mod flight;
mod refusal;

pub use self::engine::{Caller, Engine, Prepared, Question, TableInfo};
pub use self::refusal::Refusal;
