//! The point-in-time join: for each row of a spine, the row of each feature view that was the newest then.
//!
//! A *spine* says which entities are asked about and when; a *view* says what was observed of an entity, when it
//! happened (`event_time`) and, if it has the column, since when it was known (`known_time`). For each row of the
//! spine and each view the join finds the view's newest row
//!
//! - with the same keys, which are not null,
//! - with `event_time <= spine time`, and not older than the view's time to live, if it has one,
//! - with `known_time <= spine time`, where the view has that column,
//!
//! and of several such rows the one with the highest (`event_time`, `known_time`, `offset`). Rows that agree in all of
//! that are told apart by their values, so that the result depends on the rows alone and not on the order they arrive in.
//! Where there is no such row, the view's columns are null. The rows of the spine come out in their order, each once.
//!
//! | part | what it does |
//! |---|---|
//! | `time` | times of any unit as whole numbers, and the newest and oldest that a row of the spine admits |
//! | `keys` | keys of any type as words or bytes, and their hashes |
//! | `groups` | a hash table from keys to numbers |
//! | `view` | rows of a view as they are kept in memory |
//! | `index` | what is searched: per key and view, the rows that can be the answer, in the order they become known |
//! | `spill` | the same join through files, when the views do not fit into memory |
//! | `exec`, `node` | the join in DataFusion's physical and logical plans |
//!
//! `docs/point-in-time.md` says why it is built like this and what it costs.

mod exec;
mod groups;
mod index;
mod keys;
mod node;
mod spill;
mod time;
mod view;

#[cfg(test)]
mod tests;

pub use self::exec::{JoinedView, PointInTimeJoinExec};
pub use self::node::{FeatureView, PointInTimeJoin, PointInTimePlanner};
pub use self::time::Matching;
