//! A schema together with everything it refers to, in the order in which it can be read.
//!
//! References form a graph that somebody else drew, so it is walked with bounds, on depth, number and bytes. Whatever
//! breaks a bound, or is no tree of dependencies, makes the schema unusable: a definite answer, no error.

use std::collections::{HashMap, HashSet};

use futures::future::BoxFuture;
use isobar_schemas::{RegisteredSchema, SchemaReference};

use super::servers::{Question, Servers};
use super::wire::{ReferenceTo, Said, Thing, WireSchema, WireVersion};
use crate::Error;

/// Most schemas that one refers to, directly and by way of others.
const REFERENCES_MAX: usize = 256;
/// Most schemas in a chain of references.
const DEPTH_MAX: usize = 32;
/// Most bytes of a schema and all that it refers to.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Why a walk ended early.
enum Stop {
    /// The schema cannot be used: why.
    Unusable(String),
    /// There is no answer.
    Error(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

/// The schema with the texts of everything that it refers to; `Unusable` says why that cannot be had.
pub(super) async fn resolve(servers: &Servers, root: WireSchema) -> Result<Said<RegisteredSchema>, Error> {
    let kind = match root.kind() {
        Ok(kind) => kind,
        Err(other) => {
            let other = servers.shown(other);
            return Ok(Said::Unusable(format!("its type is {other}, not AVRO, PROTOBUF or JSON")));
        }
    };
    let mut walk = Walk { servers, open: HashSet::new(), names: HashMap::new(), found: Vec::new(), bytes: 0 };
    let walked = match walk.count(&root.schema) {
        Ok(()) => walk.visit_all(root.references().to_vec(), 1).await,
        Err(stop) => Err(stop),
    };
    match walked {
        Ok(()) => Ok(Said::Found(RegisteredSchema { kind, text: root.schema, references: walk.found })),
        Err(Stop::Unusable(why)) => Ok(Said::Unusable(why)),
        Err(Stop::Error(error)) => Err(error),
    }
}

/// Subject and version.
type Place = (String, i64);

struct Walk<'a> {
    servers: &'a Servers,
    /// What the walk is inside of: to meet it again is a cycle.
    open: HashSet<Place>,
    /// What the names stand for.
    names: HashMap<String, Place>,
    /// What was walked through, each after what it refers to.
    found: Vec<SchemaReference>,
    bytes: usize,
}

impl Walk<'_> {
    fn visit_all(&mut self, references: Vec<ReferenceTo>, depth: usize) -> BoxFuture<'_, Result<(), Stop>> {
        Box::pin(async move {
            for reference in references {
                self.visit(reference, depth).await?;
            }
            Ok(())
        })
    }

    async fn visit(&mut self, reference: ReferenceTo, depth: usize) -> Result<(), Stop> {
        let ReferenceTo { name, subject, version } = reference;
        let place = (subject, version);
        if self.open.contains(&place) {
            return unusable(format!("it refers to itself by way of {}", self.show(&place)));
        }
        match self.names.get(&name) {
            Some(known) if *known == place => return Ok(()),
            Some(known) => {
                let (name, known, place) = (self.servers.shown(&name), self.show(known), self.show(&place));
                return unusable(format!("it refers to both {known} and {place} as {name}"));
            }
            None => {}
        }
        if depth > DEPTH_MAX {
            return unusable(format!("its references are nested more than {DEPTH_MAX} deep"));
        }
        if self.names.len() == REFERENCES_MAX {
            return unusable(format!("it refers to more than {REFERENCES_MAX} other schemas"));
        }
        self.names.insert(name.clone(), place.clone());
        let schema = self.fetch(&place).await?;
        self.count(&schema.schema)?;
        self.open.insert(place.clone());
        self.visit_all(schema.references().to_vec(), depth + 1).await?;
        self.open.remove(&place);
        self.found.push(SchemaReference { name, text: schema.schema });
        Ok(())
    }

    async fn fetch(&self, place: &Place) -> Result<WireSchema, Stop> {
        let (subject, version) = (&place.0, place.1.to_string());
        let question = Question {
            what: format!("version {version} of subject {subject}, which a schema refers to"),
            path: &["subjects", subject, "versions", &version],
            // A schema stays readable when what it refers to is withdrawn from new use.
            offset: 0,
            query: Some("deleted=true"),
            body: None,
        };
        match self.servers.tell::<WireVersion>(&question, Thing::Version).await? {
            Said::Found(found) => Ok(found.schema),
            Said::Missing => unusable(format!("it refers to {}, which is not there", self.show(place))),
            Said::Unusable(why) => unusable(format!("it refers to {}, and {why}", self.show(place))),
        }
    }

    fn count(&mut self, text: &str) -> Result<(), Stop> {
        self.bytes += text.len();
        match self.bytes > TEXT_BYTES_MAX {
            true => {
                unusable(format!("it and what it refers to are larger than {} MiB", TEXT_BYTES_MAX >> 20))
            }
            false => Ok(()),
        }
    }

    fn show(&self, (subject, version): &Place) -> String {
        format!("version {version} of subject {}", self.servers.shown(subject))
    }
}

fn unusable<T>(why: String) -> Result<T, Stop> {
    Err(Stop::Unusable(why))
}
