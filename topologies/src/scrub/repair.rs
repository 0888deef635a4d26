//! Puts back what was decided, and reads it back.
//!
//! ```text
//! files ─▶ entries in order, each after its files and after the one before it ─▶ versions that nobody decided are taken away
//!       ─▶ checkpoints
//! ```
//!
//! Everything written to a table here is decided bytes with a known SHA-256, so two repairs, or a repair and a running
//! leader, can only write the same value to a key. What is about to be replaced is first copied to `control/…/foreign/`
//! under its own hash, create-only. The replacement is conditional on the version of the object that was copied,
//! where the store can do that; a directory cannot, and gets it by a synced rename right after the bytes were read again.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use isobar_connectors::clouds::{Cloud, PutOnce, REGISTER_BYTES_MAX, put_once, read_register};
use isobar_connectors::delta;
use isobar_connectors::failpoint::{self, Failpoint};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, UpdateVersion};

use super::checkpoints;
use super::control::{learn, read_logs};
use super::decided::Settled;
use super::files::{Look, look, restore};
use super::inspect::{Fault, Found, Inspection, Scope, State, members};
use super::report::Outcome;
use crate::chain_of;
use crate::commit::format::published_path;
use crate::prove::log::DataFile;

/// Attempts at one key before it is reported as not repaired.
const ATTEMPTS_MAX: usize = 5;

/// What was done, or why nothing was; for people.
type Repair = Result<String, String>;

/// Carries repairs out.
#[derive(Debug)]
struct Repairer<'a> {
    scope: &'a Scope<'a>,
    inspection: &'a Inspection,
    /// Paths of the files at the head, by table.
    live: BTreeMap<String, HashSet<String>>,
}

/// Files before entries, entries in order, then what nobody decided, and checkpoints after what they hold.
fn order(found: &Found) -> (u8, Option<usize>, String, u64) {
    match &found.fault {
        Fault::File { table, .. } => (0, found.cloud, table.clone(), 0),
        Fault::Entry { table, version } => (1, found.cloud, table.clone(), *version),
        Fault::Beyond { table, version, .. } => (2, found.cloud, table.clone(), *version),
        Fault::Checkpoint { table } => (3, found.cloud, table.clone(), 0),
        Fault::BeyondRepair(_) => (4, found.cloud, String::new(), 0),
    }
}

/// Repairs what can be repaired, and notes the outcome of everything.
pub(super) async fn repair(scope: &Scope<'_>, inspection: &mut Inspection) {
    let mut found = std::mem::take(&mut inspection.found);
    found.sort_by_key(order);
    let live = inspection.decided.iter().map(|(table, decided)| (table.clone(), decided.live())).collect();
    let repairer = Repairer { scope, inspection, live };
    for found in &mut found {
        let outcome = match (found.cloud, &found.fault) {
            (_, Fault::BeyondRepair(why)) => Err((*why).to_owned()),
            (None, _) => Err("it concerns no cloud".to_owned()),
            (Some(cloud), Fault::File { table, file }) => repairer.file(cloud, table, file).await,
            (Some(cloud), Fault::Checkpoint { table }) => repairer.checkpoint(cloud, table).await,
            (Some(cloud), Fault::Entry { table, version }) => repairer.entry(cloud, table, *version).await,
            (Some(cloud), Fault::Beyond { table, version, sha256 }) => {
                repairer.beyond(cloud, table, *version, sha256.as_deref()).await
            }
        };
        let (outcome, note) = match outcome {
            Ok(note) => (Outcome::Repaired, note),
            Err(note) => (Outcome::NotRepaired, note),
        };
        (found.finding.outcome, found.finding.note) = (outcome, Some(note));
    }
    inspection.found = found;
}

impl Repairer<'_> {
    fn cloud(&self, index: usize) -> &Cloud {
        &self.scope.group.clouds[index]
    }

    /// Clouds that may have what is missing in `cloud`. What comes from them is checked by its hash.
    fn sources(&self, cloud: usize) -> Vec<Cloud> {
        let seats = self.inspection.seats.iter().enumerate();
        let sources = seats.filter(|(index, seat)| {
            let may_answer = !matches!(seat.state, State::Silent(_));
            *index != cloud && may_answer
        });
        sources.map(|(index, _)| self.cloud(index).clone()).collect()
    }

    async fn file(&self, cloud: usize, table: &str, file: &DataFile) -> Repair {
        self.restore(cloud, table, file).await?;
        Ok("restored from another cloud".to_owned())
    }

    /// Brings a data file from a cloud that has it.
    async fn restore(&self, cloud: usize, table: &str, file: &DataFile) -> Result<(), String> {
        let around = [&failpoint::REPAIR_BEFORE_FILE, &failpoint::REPAIR_AFTER_FILE];
        restore(self.cloud(cloud), &self.sources(cloud), table, file, around, &self.scope.throttle).await
    }

    async fn checkpoint(&self, cloud: usize, table: &str) -> Repair {
        let decided = self.inspection.decided.get(table).ok_or("nothing is known of this table")?;
        let sources = self.sources(cloud);
        checkpoints::put_back(self.cloud(cloud), &sources, decided, &self.scope.throttle).await
    }

    fn settled(&self, table: &str, version: u64) -> Result<&Settled, String> {
        let decided = self.inspection.decided.get(table);
        let settled = decided.and_then(|decided| decided.versions.get(&version));
        settled.ok_or_else(|| "its decided bytes are not known".to_owned())
    }

    /// The decided bytes, from the control log or from a cloud that holds them.
    async fn decided_bytes(&self, table: &str, version: u64, settled: &Settled) -> Result<Bytes, String> {
        if let Some(body) = &settled.body {
            return Ok(body.clone());
        }
        let path = published_path(table, version);
        for index in 0..self.scope.group.clouds.len() {
            let holds =
                self.inspection.seats[index].logs.get(table).and_then(|log| log.versions.get(&version));
            if holds.is_none_or(|held| held.sha256.as_ref() != Some(&settled.sha256)) {
                continue;
            }
            let read = read_register(&self.cloud(index).control, &path, REGISTER_BYTES_MAX).await;
            if let Ok(Some(bytes)) = read
                && delta::sha256_hex(&bytes) == settled.sha256
            {
                return Ok(bytes);
            }
        }
        Err(format!("no cloud gives its decided bytes, SHA-256 {}", settled.sha256))
    }

    /// Makes sure that the decided bytes lie at their version, after the files they name.
    async fn entry(&self, cloud: usize, table: &str, version: u64) -> Repair {
        let settled = self.settled(table, version)?;
        let bytes = self.decided_bytes(table, version, settled).await?;
        self.bring_files(cloud, table, version).await?;
        let path = published_path(table, version);
        self.put_back(cloud, table, version, &path, &bytes).await
    }

    /// The files that the version adds and that are still live must be there before it; of the others, as many as are
    /// to be had, and none that a VACUUM let go.
    async fn bring_files(&self, cloud: usize, table: &str, version: u64) -> Result<(), String> {
        let Some(decided) = self.inspection.decided.get(table) else { return Ok(()) };
        let released = decided.released();
        let is_live = |file: &DataFile| self.live.get(table).is_some_and(|live| live.contains(&file.path));
        for file in decided.added(version).into_iter().filter(|file| !released.contains(&file.path)) {
            let target = self.cloud(cloud);
            if look(target, table, &file, true, &self.scope.throttle).await.0 == Look::Good {
                continue;
            }
            if let Err(why) = self.restore(cloud, table, &file).await
                && is_live(&file)
            {
                return Err(format!("its file {} cannot be brought: {why}", file.path));
            }
        }
        Ok(())
    }

    /// Brings `bytes` to `path`, whatever lies there; that is set aside first.
    async fn put_back(&self, index: usize, table: &str, version: u64, path: &Path, bytes: &Bytes) -> Repair {
        let cloud = self.cloud(index);
        let mut aside: Vec<String> = Vec::new();
        let mut last = "it keeps changing".to_owned();
        for _ in 0..ATTEMPTS_MAX {
            let found = match read_with_version(cloud, path).await {
                Ok(found) => found,
                Err(why) => {
                    last = why;
                    continue;
                }
            };
            let outcome = match found {
                None => {
                    self.confirm_version_before(cloud, table, version).await?;
                    create(cloud, path, bytes).await
                }
                Some((found, _)) if found == *bytes => {
                    return Ok(match aside.as_slice() {
                        [] => "the decided bytes were put in their place".to_owned(),
                        aside => {
                            format!("the decided bytes were put back; set aside as {}", aside.join(", "))
                        }
                    });
                }
                Some((found, update)) => {
                    aside.push(self.set_aside(cloud, table, version, &found).await?);
                    aside.dedup();
                    replace(cloud, path, bytes, &found, update).await
                }
            };
            // Whatever the answer was, the key is read again: that decides.
            if let Err(why) = outcome {
                last = why;
            }
        }
        Err(last)
    }

    /// A version is made only after the one before it. A leader fills a cloud from its last version on, so nobody but a
    /// later repair would fill a hole, and readers meet it first.
    async fn confirm_version_before(&self, cloud: &Cloud, table: &str, version: u64) -> Result<(), String> {
        let Some(before) = version.checked_sub(1) else { return Ok(()) };
        match cloud.control.head(&published_path(table, before)).await {
            Ok(_) => Ok(()),
            Err(object_store::Error::NotFound { .. }) => {
                Err(format!("version {before} is not there and comes first"))
            }
            Err(error) => Err(chain_of(&error)),
        }
    }

    /// Copies bytes that do not belong in a table to where people can look at them; their place.
    async fn set_aside(
        &self,
        cloud: &Cloud,
        table: &str,
        version: u64,
        bytes: &Bytes,
    ) -> Result<String, String> {
        let path = self.scope.group.keys().foreign(table, version, &delta::sha256_hex(bytes));
        let mut last = String::new();
        reach(&failpoint::REPAIR_BEFORE_SET_ASIDE, cloud)?;
        for _ in 0..ATTEMPTS_MAX {
            match put_once(&cloud.control, &path, bytes.clone()).await {
                PutOnce::Stored => {
                    reach(&failpoint::REPAIR_AFTER_SET_ASIDE, cloud)?;
                    return Ok(path.to_string());
                }
                PutOnce::Occupied(_) => {
                    return Err(format!("{path} holds other bytes than its name says; nothing was replaced"));
                }
                PutOnce::Unknown(error) => last = chain_of(&error),
            }
        }
        Err(format!("it cannot be set aside: {last}"))
    }

    /// Takes away a version that nobody decided, after it was set aside. Should its number have been decided meanwhile,
    /// the decided bytes take its place.
    async fn beyond(&self, index: usize, table: &str, version: u64, sha256: Option<&str>) -> Repair {
        let cloud = self.cloud(index);
        let path = published_path(table, version);
        let Some((found, update)) = read_with_version(cloud, &path).await? else {
            return Ok("it is gone".to_owned());
        };
        if Some(delta::sha256_hex(&found).as_str()) != sha256 {
            return Err("it changed while it was looked at; scrub again".to_owned());
        }
        let aside = self.set_aside(cloud, table, version, &found).await?;
        if let Some(body) = self.decided_by_now(table, version, &found).await? {
            self.bring_files_of(index, table, &body).await?;
            replace(cloud, &path, &body, &found, update).await?;
            self.put_back(index, table, version, &path, &body).await?;
            return Ok(format!("the bytes decided meanwhile were put in its place; set aside as {aside}"));
        }
        // Nothing can be decided and published here while these bytes are in the way: a leader creates only.
        match read_with_version(cloud, &path).await? {
            Some((again, _)) if again == found => {}
            Some(_) => return Err("it changed while it was looked at; scrub again".to_owned()),
            None => return Ok(format!("it is gone; set aside as {aside}")),
        }
        reach(&failpoint::REPAIR_BEFORE_TAKE_AWAY, cloud)?;
        cloud.control.delete(&path).await.map_err(|error| chain_of(&error))?;
        reach(&failpoint::REPAIR_AFTER_TAKE_AWAY, cloud)?;
        // Decided in between: the leader has given up on this cloud, so its bytes are put there now.
        if let Some(body) = self.decided_by_now(table, version, &found).await? {
            self.bring_files_of(index, table, &body).await?;
            self.put_back(index, table, version, &path, &body).await?;
        } else if read_with_version(cloud, &path).await?.is_some_and(|(again, _)| again == found) {
            return Err("it is still there after it was removed".to_owned());
        }
        Ok(format!("taken away; set aside as {aside}"))
    }

    /// The body decided for a version beyond the head that was known, if there is one by now. Fails unless that can be
    /// told for sure.
    async fn decided_by_now(
        &self,
        table: &str,
        version: u64,
        foreign: &Bytes,
    ) -> Result<Option<Bytes>, String> {
        let group = self.scope.group;
        let registered = self.scope.voters();
        let (logs, _) = read_logs(group, registered, &members(&self.inspection.seats)).await;
        let knowledge = learn(registered, &logs);
        let bodies = knowledge.decided.iter().flat_map(|decision| &decision.tables);
        let body = bodies.filter(|body| body.dataset == table).find(|body| body.version == version);
        if let Some(body) = body {
            return Ok(Some(Bytes::from(body.body.clone())));
        }
        let published = knowledge.base().and_then(|base| base.tables.get(table)).map(|head| head.version);
        if published.is_some_and(|published| published >= version) {
            return Err("it was decided and published elsewhere meanwhile; scrub again".to_owned());
        }
        if knowledge.excludes(table, version, Some(&delta::sha256_hex(foreign))) {
            Ok(None)
        } else {
            Err("the control logs do not settle it any more; scrub again".to_owned())
        }
    }

    /// Brings the files that `body` names.
    async fn bring_files_of(&self, index: usize, table: &str, body: &Bytes) -> Result<(), String> {
        let parsed = delta::parse_body(body).map_err(|error| error.to_string())?;
        for digest in parsed.info.isobar.files {
            let path = delta::path::decode_log_path(&digest.path).map_err(|error| error.to_string())?;
            let file = DataFile {
                path,
                size: digest.size,
                rows: Some(digest.rows),
                sha256: Some(digest.sha256),
                partition_values: Default::default(),
                statistics: None,
                metadata: None,
            };
            if look(self.cloud(index), table, &file, true, &self.scope.throttle).await.0 != Look::Good {
                self.restore(index, table, &file).await?;
            }
        }
        Ok(())
    }
}

fn reach(point: &'static Failpoint, cloud: &Cloud) -> Result<(), String> {
    failpoint::hit(point, &cloud.name).map_err(|error| chain_of(&error))
}

pub(crate) type Versioned = Option<(Bytes, UpdateVersion)>;

/// The bytes at `path` with what a conditional write needs, `None` where nothing is.
pub(crate) async fn read_with_version(cloud: &Cloud, path: &Path) -> Result<Versioned, String> {
    let found = match cloud.control.get(path).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(chain_of(&error)),
    };
    let size = found.meta.size;
    if size > REGISTER_BYTES_MAX {
        return Err(format!("{size} bytes are too many to be set aside"));
    }
    let update = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
    let bytes = found.bytes().await.map_err(|error| chain_of(&error))?;
    if bytes.len() as u64 != size {
        return Err(format!("the answer ended after {} of {size} bytes", bytes.len()));
    }
    Ok(Some((bytes, update)))
}

async fn create(cloud: &Cloud, path: &Path, bytes: &Bytes) -> Result<(), String> {
    reach(&failpoint::REPAIR_BEFORE_ENTRY, cloud)?;
    match put_once(&cloud.control, path, bytes.clone()).await {
        PutOnce::Stored | PutOnce::Occupied(_) => reach(&failpoint::REPAIR_AFTER_ENTRY, cloud),
        PutOnce::Unknown(error) => Err(chain_of(&error)),
    }
}

/// Replaces `found` by `bytes`, only if it is still there.
async fn replace(
    cloud: &Cloud,
    path: &Path,
    bytes: &Bytes,
    found: &Bytes,
    update: UpdateVersion,
) -> Result<(), String> {
    reach(&failpoint::REPAIR_BEFORE_ENTRY, cloud)?;
    overwrite(cloud, path, bytes, found, update).await?;
    reach(&failpoint::REPAIR_AFTER_ENTRY, cloud)
}

/// One conditional write. A store without conditional updates is read once more instead.
pub(crate) async fn overwrite(
    cloud: &Cloud,
    path: &Path,
    bytes: &Bytes,
    found: &Bytes,
    update: UpdateVersion,
) -> Result<(), String> {
    let options = |mode| PutOptions { mode, ..PutOptions::default() };
    let conditional = options(PutMode::Update(update));
    match cloud.control.put_opts(path, bytes.clone().into(), conditional).await {
        Ok(_) => return Ok(()),
        Err(object_store::Error::NotImplemented { .. }) => {}
        Err(error) => return Err(chain_of(&error)),
    }
    match read_with_version(cloud, path).await? {
        Some((again, _)) if again == *found => {}
        _ => return Err("it changed while it was looked at".to_owned()),
    }
    let unconditional = options(PutMode::Overwrite);
    cloud
        .control
        .put_opts(path, bytes.clone().into(), unconditional)
        .await
        .map_err(|error| chain_of(&error))?;
    Ok(())
}
