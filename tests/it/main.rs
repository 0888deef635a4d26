//! Integration tests: one binary, a module per topic, real pipelines on an embedded broker and clouds in memory or in
//! directories. `live` talks to real services and needs `ISOBAR_LIVE=1`; `cli` runs the `isobar` binary.
//!
//! A test waits for conditions, never for time to pass, and asserts on what was decided, never on how long it took.

#![allow(clippy::unwrap_used, reason = "in a test, an unexpected error is a failure")]

mod as_of;
mod audit;
mod backfill;
mod bad_input;
mod checkpoint;
mod cli;
mod contracts;
mod dead_letter;
mod debezium;
mod distributed;
mod doctor;
mod drift;
mod drill;
mod elect;
mod evolution;
mod failover;
mod failpoints;
mod fill;
mod formats;
mod gap;
mod gateway;
mod gcs;
mod headers;
mod helpers;
mod hostile;
mod inference;
mod leader;
mod live;
mod main_job;
mod maintenance;
mod mirrored_checkpoints;
mod models;
mod online;
mod outage;
mod payload_rows;
mod predict;
mod publish;
mod redrive;
mod scrub;
mod scrub_kills;
mod serve;
mod shell;
mod sim;
mod single_faults;
mod sql_files;
mod standby;
mod takeover;
mod topics;
mod training;
mod versions;
mod wire;
mod wire_battery;
mod wire_faults;
mod workers;
