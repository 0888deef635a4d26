//! `isobar models verify`: every entry and file of every model in every cloud, held against what is decided.
//!
//! What is decided is read as readers do, by digests. Each object that it names is then read in each cloud. With `repair`, what is
//! missing or differs is brought from a cloud that has it, files before entries; what lay in the place of an entry is
//! set aside first. Nothing else is written, and nothing is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use futures::future;
use isobar_connectors::clouds::{Cloud, PutOnce, put_once};
use isobar_connectors::copy::{holds_file, replace_file};
use isobar_connectors::delta::sha256_hex;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde::Serialize;
use tracing::{info, warn};

use super::FOLDER;
use super::history::History;
use super::registry::{Registry, copy};
use super::writer::Writer;
use crate::chain_of;
use crate::commit::format::{MODELS_PREFIX, published_path};
use crate::error::Error;
use crate::scrub::repair::{overwrite, read_with_version};

/// What is wrong with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// It is not there.
    Missing,
    /// It is not what is decided.
    Differs,
    /// The cloud does not answer.
    Unavailable,
    /// What is decided cannot be told.
    Undecided,
}

/// Something that is not as it is decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Finding {
    /// The cloud; `null` if it is not about one.
    pub cloud: Option<String>,
    /// The object.
    pub object: String,
    /// What is wrong with it.
    pub kind: FindingKind,
    /// More about it.
    pub detail: String,
}

/// What was compared, and found.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Verified {
    /// Models looked at.
    pub models: Vec<String>,
    /// Entries that are decided.
    pub entries: u64,
    /// Files that they name.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What was wrong and no longer is.
    pub repaired: Vec<Finding>,
}

impl Verified {
    /// Whether all clouds hold everything that is decided.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }
}

/// An object as it has to be.
#[derive(Debug, Clone)]
enum Decided {
    /// An entry.
    Entry { log: String, index: u64, bytes: Bytes },
    /// A file.
    File { size: u64, sha256: String },
}

/// All objects that the entries of a model name, by path.
type Objects = BTreeMap<String, Decided>;

/// Compares the models of all clouds with what is decided: all, or `only` one. With `repair`, puts back what is wrong.
///
/// # Errors
/// [`Error::NoMajority`] if too few clouds answer to say what is decided.
pub async fn verify(writer: &Writer, only: Option<&str>, repair: bool) -> Result<Verified, Error> {
    let mut decided = decided(&writer.registry, only).await?;
    let mut verified = look(writer.registry.clouds(), &decided).await;
    if !repair || verified.holds() {
        return Ok(verified);
    }
    let before: BTreeSet<Finding> = verified.findings.iter().cloned().collect();
    for cloud in &writer.group.clouds {
        put_back(writer, cloud, &verified.findings, &decided.objects).await;
    }
    if !decided.objects.is_empty() {
        // What is decided, and was published nowhere yet.
        writer.fill().await?;
    }
    decided = self::decided(&writer.registry, only).await?;
    verified = look(writer.registry.clouds(), &decided).await;
    let is_gone = |finding: &&Finding| {
        !verified.findings.iter().any(|left| (&left.cloud, &left.object) == (&finding.cloud, &finding.object))
    };
    verified.repaired = before.iter().filter(is_gone).cloned().collect();
    Ok(verified)
}

/// Rebuilds the models of the cloud `lost`, which lost what it held, and has the others readmit it
/// (`docs/protocol-readmission.md`).
///
/// # Errors
/// [`Error::Configuration`] for a cloud that cannot be readmitted, [`Error::NoMajority`] if too few of the others answer;
/// [`Error::NotDecided`] if not everything could be brought there. Nothing is lost then; it can be tried again.
pub async fn readmit(writer: &Writer, lost: &str) -> Result<Verified, Error> {
    writer.group.check_readmission(lost).await?;
    rebuild(writer, lost).await?;
    let decision = writer.group.decide_readmission(lost).await?;
    // Again: more was published meanwhile.
    rebuild(writer, lost).await?;
    let readmission = writer.group.admit(decision).await?;
    info!(cloud = lost, generation = readmission.generation, "cloud readmitted for models");
    verify(writer, None, false).await
}

/// Brings everything that is decided to the cloud `lost`.
async fn rebuild(writer: &Writer, lost: &str) -> Result<(), Error> {
    let Some(cloud) = writer.group.clouds.iter().find(|cloud| cloud.name == lost) else { return Ok(()) };
    let decided = decided(&writer.registry, None).await?;
    let only = std::slice::from_ref(cloud);
    let found = look(only, &decided).await;
    put_back(writer, cloud, &found.findings, &decided.objects).await;
    let left = look(only, &decided).await;
    match left.findings.first() {
        None => Ok(()),
        Some(first) => Err(Error::NotDecided(format!(
            "cloud {lost} is not readmitted, {} objects could not be brought there: {}: {}",
            left.findings.len(),
            first.object,
            first.detail
        ))),
    }
}

/// What has to be in every cloud.
#[derive(Debug, Default)]
struct Everything {
    models: Vec<String>,
    entries: u64,
    objects: Objects,
    /// Models of which it cannot be told.
    findings: Vec<Finding>,
}

async fn decided(registry: &Registry, only: Option<&str>) -> Result<Everything, Error> {
    let names = match only {
        Some(name) => vec![registry.model(name).await?.name],
        None => registry.folders().await?,
    };
    let mut everything = Everything::default();
    for name in names {
        let log = format!("{MODELS_PREFIX}{name}");
        let entries = match registry.all_entries(&name).await {
            Ok(entries) => entries,
            Err(Error::Damaged { what, detail }) => {
                let kind = FindingKind::Undecided;
                everything.findings.push(Finding { cloud: None, object: what, kind, detail });
                continue;
            }
            Err(error) => return Err(error),
        };
        let mut history = History::new(&name);
        for bytes in entries {
            let index = history.entries;
            let path = published_path(&log, index);
            if let Err(detail) = history.apply(&bytes) {
                let (object, kind) = (path.to_string(), FindingKind::Undecided);
                everything.findings.push(Finding { cloud: None, object, kind, detail });
                break;
            }
            let entry = Decided::Entry { log: log.clone(), index, bytes };
            everything.objects.insert(path.to_string(), entry);
            everything.entries += 1;
        }
        for file in history.versions.into_values().flatten() {
            let path = format!("{FOLDER}/{name}/{}", file.path);
            everything.objects.insert(path, Decided::File { size: file.size, sha256: file.sha256 });
        }
        everything.models.push(name);
    }
    Ok(everything)
}

async fn look(clouds: &[Cloud], decided: &Everything) -> Verified {
    let looks = clouds.iter().map(|cloud| look_into(cloud, &decided.objects));
    let found = future::join_all(looks).await.into_iter().flatten();
    let files = decided.objects.values().filter_map(|object| match object {
        Decided::File { size, .. } => Some(*size),
        Decided::Entry { .. } => None,
    });
    Verified {
        models: decided.models.clone(),
        entries: decided.entries,
        files: files.clone().count() as u64,
        bytes: files.sum(),
        findings: decided.findings.iter().cloned().chain(found).collect(),
        repaired: Vec::new(),
    }
}

/// What is wrong in one cloud. One that does not answer is asked no more.
async fn look_into(cloud: &Cloud, objects: &Objects) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, decided) in objects {
        let (kind, detail) = match look_at(cloud, path, decided).await {
            Ok(None) => continue,
            Ok(Some(wrong)) => wrong,
            Err(why) => (FindingKind::Unavailable, why),
        };
        findings.push(Finding { cloud: Some(cloud.name.clone()), object: path.clone(), kind, detail });
        if kind == FindingKind::Unavailable {
            break;
        }
    }
    findings
}

/// What is wrong with an object, if anything.
async fn look_at(
    cloud: &Cloud,
    path: &str,
    decided: &Decided,
) -> Result<Option<(FindingKind, String)>, String> {
    let location = Path::parse(path).map_err(|error| error.to_string())?;
    let is_right = match decided {
        Decided::Entry { log, index, bytes } => {
            copy(cloud, log, *index).await?.is_some_and(|held| held == *bytes)
        }
        Decided::File { size, sha256 } => {
            let held = holds_file(&cloud.data, path, *size, sha256).await;
            held.map_err(|error| chain_of(&error))?
        }
    };
    if is_right {
        return Ok(None);
    }
    match cloud.control.head(&location).await {
        Err(object_store::Error::NotFound { .. }) => {
            Ok(Some((FindingKind::Missing, "it is not there".to_owned())))
        }
        Err(error) => Err(chain_of(&error)),
        Ok(found) => {
            let detail = match decided {
                Decided::File { size, .. } if found.size != *size => {
                    format!("it has {} bytes, not {size}", found.size)
                }
                _ => "its bytes are not the decided ones".to_owned(),
            };
            Ok(Some((FindingKind::Differs, detail)))
        }
    }
}

/// Puts back what is wrong in `cloud`: files first, then entries in their order.
async fn put_back(writer: &Writer, cloud: &Cloud, findings: &[Finding], objects: &Objects) {
    let of_cloud = findings.iter().filter(|finding| finding.cloud.as_deref() == Some(&cloud.name));
    let wrong = of_cloud.filter_map(|finding| Some((finding, objects.get(&finding.object)?)));
    let (entries, files): (Vec<_>, Vec<_>) =
        wrong.partition(|(_, decided)| matches!(decided, Decided::Entry { .. }));
    let mut is_whole = true;
    for (finding, decided) in files.into_iter().chain(entries) {
        let outcome = match decided {
            _ if finding.kind == FindingKind::Unavailable => continue,
            // An entry is made only behind the files and the entries before it.
            Decided::Entry { .. } if finding.kind == FindingKind::Missing && !is_whole => continue,
            Decided::File { size, sha256 } => {
                put_file_back(writer, cloud, &finding.object, *size, sha256).await
            }
            Decided::Entry { log, index, bytes } => put_entry_back(writer, cloud, log, *index, bytes).await,
        };
        match outcome {
            Ok(()) => info!(cloud = %cloud.name, object = finding.object, "put back"),
            Err(why) => {
                is_whole = false;
                warn!(cloud = %cloud.name, object = finding.object, why, "not put back");
            }
        }
    }
}

async fn put_file_back(
    writer: &Writer,
    cloud: &Cloud,
    path: &str,
    size: u64,
    sha256: &str,
) -> Result<(), String> {
    let others = writer.group.clouds.iter().filter(|other| other.name != cloud.name);
    let sources: Vec<Arc<dyn ObjectStore>> = others.map(|other| other.data.clone()).collect();
    let put = replace_file(&cloud.data, &sources, path, size, sha256).await;
    put.map_err(|error| chain_of(&error))
}

async fn put_entry_back(
    writer: &Writer,
    cloud: &Cloud,
    log: &str,
    index: u64,
    bytes: &Bytes,
) -> Result<(), String> {
    let location = published_path(log, index);
    let Some((found, update)) = read_with_version(cloud, &location).await? else {
        return match put_once(&*cloud.control, &location, bytes.clone()).await {
            PutOnce::Stored => Ok(()),
            PutOnce::Occupied(_) => Err("something else was put there meanwhile".to_owned()),
            PutOnce::Unknown(error) => Err(chain_of(&error)),
        };
    };
    if found == *bytes {
        return Ok(());
    }
    let aside = writer.group.keys().foreign(log, index, &sha256_hex(&found));
    match put_once(&*cloud.control, &aside, found.clone()).await {
        PutOnce::Stored => {}
        PutOnce::Occupied(_) => return Err(format!("{aside} holds other bytes than its name says")),
        PutOnce::Unknown(error) => return Err(chain_of(&error)),
    }
    overwrite(cloud, &location, bytes, &found, update).await
}
