//! What a registry has said, kept within bounds.
//!
//! An id means the same schema for ever, so a schema is forgotten only for want of room. That there is no schema is
//! true only until somebody registers one, and is forgotten soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use isobar_schemas::RegisteredSchema;
use tokio::time::Instant;

use super::SchemaAnswer;

/// How long "there is none" is believed.
pub(super) const NEGATIVE_LIFE: Duration = Duration::from_secs(30);
/// Most ids of which it is known that there is none: a topic full of garbage names any number.
const NEGATIVES_MAX: usize = 16_384;
/// What an entry takes beside its text, in bytes.
const ENTRY_BYTES: usize = 256;

#[derive(Debug)]
pub(super) struct Cache {
    known: HashMap<u32, Known>,
    bytes: usize,
    bytes_max: usize,
    /// Counts the uses, to tell what was used least recently.
    uses: u64,
    /// Ids without a usable schema, and until when that is believed.
    negative: HashMap<u32, (SchemaAnswer, Instant)>,
    /// When the next of them is over, seen the last time that there was no room.
    next_over: Option<Instant>,
}

#[derive(Debug)]
struct Known {
    schema: Arc<RegisteredSchema>,
    last_use: u64,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            known: HashMap::new(),
            bytes: 0,
            bytes_max,
            uses: 0,
            negative: HashMap::new(),
            next_over: None,
        }
    }

    /// What is known of `id` at `now`.
    pub(super) fn get(&mut self, id: u32, now: Instant) -> Option<SchemaAnswer> {
        self.uses += 1;
        if let Some(known) = self.known.get_mut(&id) {
            known.last_use = self.uses;
            return Some(SchemaAnswer::Known(known.schema.clone()));
        }
        let (answer, until) = self.negative.get(&id)?;
        (now < *until).then(|| answer.clone())
    }

    /// Keeps an answer given at `now`, in place of those used least recently.
    pub(super) fn put(&mut self, id: u32, answer: &SchemaAnswer, now: Instant) {
        match answer {
            SchemaAnswer::Known(schema) => self.put_known(id, schema.clone()),
            SchemaAnswer::Unknown | SchemaAnswer::Unusable(_) => self.put_negative(id, answer.clone(), now),
        }
    }

    fn put_known(&mut self, id: u32, schema: Arc<RegisteredSchema>) {
        let bytes = size_of(&schema);
        if bytes > self.bytes_max {
            return;
        }
        self.negative.remove(&id);
        self.uses += 1;
        if let Some(old) = self.known.insert(id, Known { schema, last_use: self.uses }) {
            self.bytes -= size_of(&old.schema);
        }
        self.bytes += bytes;
        while self.bytes > self.bytes_max {
            let oldest = self.known.iter().min_by_key(|(_, known)| known.last_use).map(|(id, _)| *id);
            let Some(old) = oldest.and_then(|id| self.known.remove(&id)) else { return };
            self.bytes -= size_of(&old.schema);
        }
    }

    fn put_negative(&mut self, id: u32, answer: SchemaAnswer, now: Instant) {
        if self.negative.len() >= NEGATIVES_MAX && self.next_over.is_none_or(|over| over <= now) {
            self.negative.retain(|_, (_, until)| now < *until);
            self.next_over = self.negative.values().map(|(_, until)| *until).min();
        }
        if self.negative.len() < NEGATIVES_MAX {
            self.negative.insert(id, (answer, now + NEGATIVE_LIFE));
        }
    }

    /// The schemas, the most recently used first.
    pub(super) fn schemas(&self) -> Vec<(u32, Arc<RegisteredSchema>)> {
        let mut known: Vec<_> = self.known.iter().collect();
        known.sort_by_key(|(_, known)| std::cmp::Reverse(known.last_use));
        known.into_iter().map(|(id, known)| (*id, known.schema.clone())).collect()
    }
}

/// The memory that a schema takes, in bytes.
pub(super) fn size_of(schema: &RegisteredSchema) -> usize {
    let references =
        schema.references.iter().map(|reference| reference.name.len() + reference.text.len() + ENTRY_BYTES);
    schema.text.len() + ENTRY_BYTES + references.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use isobar_schemas::SchemaKind;

    use super::*;

    fn schema(bytes: usize) -> SchemaAnswer {
        let text = "x".repeat(bytes - ENTRY_BYTES);
        SchemaAnswer::Known(Arc::new(RegisteredSchema {
            kind: SchemaKind::Avro,
            text,
            references: Vec::new(),
        }))
    }

    #[test]
    fn what_was_used_least_recently_makes_room() {
        let (mut cache, now) = (Cache::new(3000), Instant::now());
        for id in 1..=3 {
            cache.put(id, &schema(1000), now);
        }
        assert!(cache.get(1, now).is_some());
        cache.put(4, &schema(1000), now);
        let ids: Vec<u32> = cache.schemas().into_iter().map(|(id, _)| id).collect();
        assert_eq!(ids, [4, 1, 3]);
        assert_eq!(cache.bytes, 3000);
        // Too large to be kept at all: nothing else goes for it.
        cache.put(5, &schema(3001), now);
        assert_eq!(cache.schemas().len(), 3);
        // The same id again takes no further room.
        cache.put(4, &schema(500), now);
        assert_eq!(cache.bytes, 2500);
    }

    #[test]
    fn that_there_is_no_schema_is_believed_for_a_while() {
        let (mut cache, now) = (Cache::new(3000), Instant::now());
        cache.put(7, &SchemaAnswer::Unknown, now);
        assert_eq!(cache.get(7, now), Some(SchemaAnswer::Unknown));
        assert_eq!(cache.get(7, now + NEGATIVE_LIFE), None);
        cache.put(7, &schema(300), now);
        assert!(matches!(cache.get(7, now), Some(SchemaAnswer::Known(_))));
    }

    #[test]
    fn any_number_of_ids_without_a_schema_takes_bounded_memory() {
        let (mut cache, now) = (Cache::new(3000), Instant::now());
        for id in 0..2 * NEGATIVES_MAX as u32 {
            cache.put(id, &SchemaAnswer::Unknown, now);
        }
        assert_eq!(cache.negative.len(), NEGATIVES_MAX);
        let later = now + NEGATIVE_LIFE;
        cache.put(u32::MAX, &SchemaAnswer::Unknown, later);
        assert_eq!((cache.negative.len(), cache.get(u32::MAX, later)), (1, Some(SchemaAnswer::Unknown)));
    }
}
