//! What the three simulated stores have in common: buckets of objects, uploads in parts, sorted listings in pages.
//!
//! A plain value that changes with one request at a time, which is how conditions come to be judged and applied in one
//! step. The protocols differ in names, headers and conditions, and those are theirs.

use std::collections::BTreeMap;

use axum::http::HeaderValue;
use bytes::Bytes;
use chrono::{DateTime, Utc};

/// Objects in one page of a listing. The real stores send 1,000 or 5,000; fewer make every test turn pages.
pub(super) const PAGE_ITEMS_MAX: usize = 100;

/// Generations look like Google's: microseconds, here only rising.
const FIRST_GENERATION: u64 = 1_700_000_000_000_000;

/// An object as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    /// Rises with every write to the store.
    pub(super) generation: u64,
    /// In the form of the protocol, with quotation marks.
    pub(super) etag: String,
    pub(super) modified: DateTime<Utc>,
    pub(super) content_type: Option<HeaderValue>,
}

/// What a protocol says about an object that it is about to store.
pub(super) struct NewObject {
    pub(super) bytes: Bytes,
    /// The digest of the content, or `None` for a tag that follows from the generation.
    pub(super) etag: Option<String>,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) modified: DateTime<Utc>,
}

/// An upload in parts, of S3 and Google.
#[derive(Debug, Clone)]
pub(super) struct Upload {
    pub(super) bucket: String,
    pub(super) name: String,
    pub(super) content_type: Option<HeaderValue>,
    /// By number: tag and content.
    pub(super) parts: BTreeMap<u32, (String, Bytes)>,
}

/// A bucket or container.
#[derive(Debug, Default, Clone)]
pub(super) struct Bucket {
    pub(super) objects: BTreeMap<String, Object>,
    /// Azure's uncommitted blocks, by name of the blob and id of the block.
    pub(super) blocks: BTreeMap<String, BTreeMap<String, Bytes>>,
}

/// Everything that one store holds.
#[derive(Debug, Default, Clone)]
pub(super) struct Store {
    pub(super) buckets: BTreeMap<String, Bucket>,
    uploads: BTreeMap<String, Upload>,
    writes: u64,
    uploads_begun: u64,
}

/// Which names to list.
#[derive(Debug, Default)]
pub(super) struct Listing<'a> {
    pub(super) prefix: &'a str,
    pub(super) delimiter: Option<&'a str>,
    /// Only names after this one.
    pub(super) start_after: Option<&'a str>,
    /// Only names from this one on.
    pub(super) start_at: Option<&'a str>,
    /// Where the page before ended.
    pub(super) token: Option<&'a str>,
    pub(super) items_max: usize,
}

/// An item of a listing.
#[derive(Debug)]
pub(super) enum Item<'a> {
    Object(&'a str, &'a Object),
    /// All names that begin so, up to and including the delimiter.
    Prefix(&'a str),
}

/// Some items in order, and where the next page begins, if there is one.
#[derive(Debug)]
pub(super) struct Page<'a> {
    pub(super) items: Vec<Item<'a>>,
    pub(super) next: Option<String>,
}

impl Store {
    pub(super) fn add_bucket(&mut self, name: &str) {
        self.buckets.entry(name.to_owned()).or_default();
    }

    pub(super) fn object(&self, bucket: &str, name: &str) -> Option<&Object> {
        self.buckets.get(bucket)?.objects.get(name)
    }

    /// Stores an object in a bucket that exists.
    pub(super) fn put(&mut self, bucket: &str, name: &str, new: NewObject) -> &Object {
        self.writes += 1;
        let NewObject { bytes, etag, content_type, modified } = new;
        let generation = FIRST_GENERATION + self.writes;
        let etag = etag.unwrap_or_else(|| format!("\"0x{generation:X}\""));
        let object = Object { bytes, generation, etag, modified, content_type };
        let bucket = self.buckets.entry(bucket.to_owned()).or_default();
        // A blob that is written loses the blocks that were waiting for it; only Azure has some.
        bucket.blocks.remove(name);
        bucket.objects.entry(name.to_owned()).insert_entry(object).into_mut()
    }

    /// Whether there was something to delete.
    pub(super) fn delete(&mut self, bucket: &str, name: &str) -> bool {
        self.buckets.get_mut(bucket).is_some_and(|bucket| bucket.objects.remove(name).is_some())
    }

    /// Begins an upload; its id.
    pub(super) fn begin_upload(&mut self, upload: Upload) -> String {
        self.uploads_begun += 1;
        let id = format!("upload-{:08}", self.uploads_begun);
        self.uploads.insert(id.clone(), upload);
        id
    }

    /// The upload `id`, if it is one of this object.
    pub(super) fn upload(&mut self, id: &str, bucket: &str, name: &str) -> Option<&mut Upload> {
        self.uploads.get_mut(id).filter(|upload| upload.bucket == bucket && upload.name == name)
    }

    pub(super) fn end_upload(&mut self, id: &str) -> Option<Upload> {
        self.uploads.remove(id)
    }

    /// A page of the names in a bucket that exists: sorted, rolled up at the delimiter.
    pub(super) fn list<'a>(&'a self, bucket: &str, listing: &Listing<'a>) -> Page<'a> {
        let mut items: Vec<Item<'a>> = Vec::new();
        let mut last: Option<&str> = None;
        let objects = self.buckets.get(bucket).into_iter().flat_map(|bucket| &bucket.objects);
        for (name, object) in objects.filter(|(name, _)| listing.is_wanted(name)) {
            let rolled = listing.rolled_up(name);
            let shown = rolled.unwrap_or(name);
            if last == Some(shown) || listing.token.is_some_and(|token| shown <= token) {
                continue;
            }
            if items.len() == listing.items_max {
                return Page { items, next: last.map(hex::encode) };
            }
            last = Some(shown);
            items.push(rolled.map_or(Item::Object(name, object), Item::Prefix));
        }
        Page { items, next: None }
    }
}

impl<'a> Listing<'a> {
    fn is_wanted(&self, name: &str) -> bool {
        name.starts_with(self.prefix)
            && self.start_after.is_none_or(|start| name > start)
            && self.start_at.is_none_or(|start| name >= start)
    }

    fn rolled_up<'b>(&self, name: &'b str) -> Option<&'b str> {
        let delimiter = self.delimiter.filter(|delimiter| !delimiter.is_empty())?;
        let end = self.prefix.len() + name[self.prefix.len()..].find(delimiter)? + delimiter.len();
        Some(&name[..end])
    }
}

/// The place that a page token stands for. Clients take tokens as they are.
pub(super) fn parse_token(token: &str) -> Option<String> {
    String::from_utf8(hex::decode(token).ok()?).ok()
}
