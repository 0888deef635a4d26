//! Helpers of the tests of change events: what becomes of records.

use std::collections::BTreeMap;

use crate::decode::testing::{chunk, render_row};
use crate::decode::{Decoder, RejectReason};

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fate {
    Row(String),
    LeftOut,
    Rejected(RejectReason, String),
}

/// The fates of `payloads`, each of which is one thing and not two.
pub(crate) fn fates<'a>(
    decoder: &mut dyn Decoder,
    payloads: impl IntoIterator<Item = Option<&'a [u8]>>,
) -> Vec<Fate> {
    let chunk = chunk(payloads);
    let decoded = decoder.decode(&chunk).unwrap();
    assert_eq!(decoded.batch.num_rows(), decoded.records.len());
    let mut fates: BTreeMap<u32, Vec<Fate>> = BTreeMap::new();
    for (row, record) in decoded.records.iter().enumerate() {
        fates.entry(*record).or_default().push(Fate::Row(render_row(&decoded.batch, row)));
    }
    for record in &decoded.left_out {
        fates.entry(*record).or_default().push(Fate::LeftOut);
    }
    for reject in decoded.rejects {
        fates.entry(reject.record).or_default().push(Fate::Rejected(reject.reason, reject.message));
    }
    assert_eq!(fates.keys().copied().collect::<Vec<_>>(), (0..chunk.len() as u32).collect::<Vec<_>>());
    assert!(fates.values().all(|of_record| of_record.len() == 1), "{fates:?}");
    fates.into_values().flatten().collect()
}
