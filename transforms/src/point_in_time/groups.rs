//! A hash table from encoded keys to numbers: the first key is group 0, the next new one group 1, and so on.
//!
//! Open addressing with linear probing, at most half full. Keys that are words lie in the slots themselves, so that a
//! look-up touches one cache line; of others the hash does, and the bytes are compared once it agrees.

use super::keys::{KeyValues, hash_of_word};

/// Stands for no group.
pub(super) const NO_GROUP: u32 = u32::MAX;

const SLOTS_MIN: usize = 16;

#[derive(Debug, Clone, Copy)]
struct Slot {
    /// The key if it is a word, its hash otherwise.
    tag: u64,
    group: u32,
}

const EMPTY: Slot = Slot { tag: 0, group: NO_GROUP };

/// Bytes of slots per group at most: a quarter of them is used just after the table has grown.
pub(super) const SLOT_BYTES_MAX: usize = 4 * size_of::<Slot>();

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Groups {
    /// A power of two.
    slots: Vec<Slot>,
    count: usize,
    /// Keys that are not words, one after the other, and where each ends.
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Groups {
    pub(super) fn new() -> Self {
        Self { slots: vec![EMPTY; SLOTS_MIN], count: 0, bytes: Vec::new(), ends: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>() + self.bytes.capacity() + self.ends.capacity() * 8
    }

    /// The group of the key in `row` of `keys`, whose hash is `hash`; [`NO_GROUP`] if it has none.
    #[inline]
    pub(super) fn find(&self, keys: &KeyValues, row: usize, hash: u64) -> u32 {
        match keys {
            KeyValues::Words(words) => self.slots[self.place_of_word(words[row], hash)].group,
            KeyValues::Bytes(bytes) => self.slots[self.place_of_bytes(bytes.value(row), hash)].group,
        }
    }

    /// As [`find`](Self::find), but a key without a group gets a new one. All keys of a table are of one kind.
    pub(super) fn find_or_add(&mut self, keys: &KeyValues, row: usize, hash: u64) -> u32 {
        let (place, tag) = match keys {
            KeyValues::Words(words) => (self.place_of_word(words[row], hash), words[row]),
            KeyValues::Bytes(bytes) => (self.place_of_bytes(bytes.value(row), hash), hash),
        };
        if self.slots[place].group != NO_GROUP {
            return self.slots[place].group;
        }
        let group =
            u32::try_from(self.count).expect("rows in memory are counted in 32 bits, and groups are fewer");
        self.slots[place] = Slot { tag, group };
        self.count += 1;
        if let KeyValues::Bytes(bytes) = keys {
            self.bytes.extend_from_slice(bytes.value(row));
            self.ends.push(self.bytes.len());
        }
        if self.count * 2 > self.slots.len() {
            self.grow(matches!(keys, KeyValues::Words(_)));
        }
        group
    }

    /// Where `word` is, or where it would be put.
    #[inline]
    fn place_of_word(&self, word: u64, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let slot = &self.slots[place];
            if slot.group == NO_GROUP || slot.tag == word {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    #[inline]
    fn place_of_bytes(&self, bytes: &[u8], hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut place = hash as usize & mask;
        loop {
            let slot = &self.slots[place];
            if slot.group == NO_GROUP || (slot.tag == hash && self.key(slot.group) == bytes) {
                return place;
            }
            place = (place + 1) & mask;
        }
    }

    fn key(&self, group: u32) -> &[u8] {
        let group = group as usize;
        let start = if group == 0 { 0 } else { self.ends[group - 1] };
        &self.bytes[start..self.ends[group]]
    }

    fn grow(&mut self, words: bool) {
        let slots = vec![EMPTY; self.slots.len() * 2];
        let mask = slots.len() - 1;
        let old = std::mem::replace(&mut self.slots, slots);
        for slot in old.into_iter().filter(|slot| slot.group != NO_GROUP) {
            let hash = if words { hash_of_word(slot.tag) } else { slot.tag };
            let mut place = hash as usize & mask;
            while self.slots[place].group != NO_GROUP {
                place = (place + 1) & mask;
            }
            self.slots[place] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use arrow::array::BinaryArray;

    use super::*;

    fn check(keys: &KeyValues, texts: &[String]) {
        let hashes = keys.hashes();
        let mut groups = Groups::new();
        let mut expected: HashMap<&str, u32> = HashMap::new();
        for (row, text) in texts.iter().enumerate() {
            let before = expected.get(text.as_str()).copied();
            assert_eq!(groups.find(keys, row, hashes[row]), before.unwrap_or(NO_GROUP));
            let next = expected.len() as u32;
            let group = *expected.entry(text).or_insert(next);
            assert_eq!(groups.find_or_add(keys, row, hashes[row]), group);
        }
        assert_eq!(groups.len(), expected.len());
        for (row, text) in texts.iter().enumerate() {
            assert_eq!(groups.find(keys, row, hashes[row]), expected[text.as_str()]);
        }
    }

    #[test]
    fn every_key_keeps_the_number_it_was_given_first() {
        // Multiples of a large power of two: the lowest bits of the keys are all alike.
        let numbers: Vec<u64> = (0..5000_u64).map(|row| (row % 1500) << 40).collect();
        let texts: Vec<String> = numbers.iter().map(|number| number.to_string()).collect();
        check(&KeyValues::Words(numbers.into()), &texts);
        let bytes: BinaryArray = texts.iter().map(|text| Some(text.as_bytes())).collect();
        check(&KeyValues::Bytes(bytes), &texts);
    }

    #[test]
    fn zero_and_the_empty_key_are_keys() {
        check(&KeyValues::Words(vec![0, 0, 1].into()), &["0", "0", "1"].map(str::to_owned));
        let bytes = BinaryArray::from_vec(vec![b"", b"a", b""]);
        check(&KeyValues::Bytes(bytes), &["", "a", ""].map(str::to_owned));
    }
}
