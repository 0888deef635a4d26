//! The protocol as it is, and ways to break it. Each variant is one small change; each must be caught.

use crate::commit::choose::SealedLog;
use crate::commit::format::Decision;
use crate::delta::sha256_hex;

/// Which protocol a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The protocol as the binary runs it.
    AsBuilt,
    /// A take-over reads the older logs and leaves them open.
    NoSeal,
    /// A take-over reads a cloud's logs, and seals them afterwards.
    ReadBeforeSeal,
    /// The SEAL is offered at the highest index in use, and the refusal taken for a SEAL.
    SealBelowHighest,
    /// The SEAL goes two above the highest index, so that a record still fits below it.
    SealLeavesGap,
    /// One cloud is sealed and read, not a majority.
    OneCloudSealed,
    /// A claim in one cloud owns the epoch.
    OneClaimOwns,
    /// The header holds the base and nothing of what was decided after it.
    HeaderWithoutTail,
    /// The tail is proposed again with the new epoch in its bytes.
    TailReencoded,
    /// The shortest log of the chosen epoch counts.
    ChooseShortest,
    /// The lowest epoch with a header counts.
    ChooseLowestEpoch,
    /// A record, and a header above all, is stored before its files.
    RecordBeforeFiles,
    /// Record `i` is stored where `i - 1` is not.
    RecordBeforePrevious,
    /// A cloud that is filled gets the bodies without their files.
    FillWithoutFiles,
    /// A cloud without an identity counts like any other.
    WipedCloudCounted,
    /// A cloud's identity is looked at before its logs are read, and not afterwards.
    NotAskedAfterReading,
    /// A cloud's identity is looked at before the first record is stored, and not after each.
    NotAskedAfterStoring,
    /// One of the other clouds suffices to take over for a readmission and to decide its header.
    ReadmittedByOne,
    /// A cloud gets its identity back while the header that readmits it is being decided.
    AdmittedBeforeDecided,
    /// A cloud is readmitted without the header.
    AdmittedWithoutHeader,
    /// A cloud counts as soon as its identity is back, whatever its generation.
    GenerationIgnored,
    /// Every readmission of a cloud is its first.
    GenerationNotRaised,
    /// A leader of before does not ask whether a cloud was lost and readmitted since.
    NextGenerationIgnored,
    /// A cloud that is readmitted for the second time gets the key of that generation only.
    OlderKeysNotWritten,
    /// The identity is written before the key of the generation.
    IdentityBeforeKey,
    /// A cloud counts again before it has published what the header that readmits it names.
    AdmittedBeforeFilled,
    /// A process that names one of the three clouds as its set is not refused.
    TwoSetsOfClouds,
    /// A record in one cloud is decided.
    DecidedInOne,
    /// A body is published in a cloud as soon as its record is stored there.
    PublishBeforeDecided,
    /// A lane publishes the newest version that may be published, whatever lies before it.
    PublishOutOfOrder,
    /// A decision is made with the number of an epoch that is not its leader's.
    EpochInBytesNotOwn,
    /// A commit is accepted wherever it starts.
    PositionCheckSkipped,
    /// "Already exists" is taken for one's own write, without comparing the bytes.
    ExistsTrusted,
    /// "Absent" after a write without an answer is believed: the next commit is proposed in the same place.
    AbsenceTrusted,
    /// A new leader removes the older logs of a cloud, with their SEALs.
    LogDeleted,
}

impl Variant {
    /// What a take-over makes of the logs of all clouds.
    pub(super) fn change_logs(self, logs: &mut Vec<SealedLog>) {
        let with_header = || logs.iter().filter(|log| !log.records.is_empty());
        match self {
            Variant::ChooseShortest => {
                let Some(epoch) = with_header().map(|log| log.epoch).max() else { return };
                let of_epoch = with_header().filter(|log| log.epoch == epoch);
                let Some(shortest) = of_epoch.min_by_key(|log| log.records.len()).cloned() else { return };
                *logs = vec![shortest];
            }
            Variant::ChooseLowestEpoch => {
                let Some(epoch) = with_header().map(|log| log.epoch).min() else { return };
                logs.retain(|log| log.epoch == epoch);
            }
            _ => {}
        }
    }

    /// What a take-over makes of the tail that it proposes again.
    pub(super) fn change_tail(self, tail: &mut Vec<Decision>, epoch: u8) {
        match self {
            Variant::HeaderWithoutTail => tail.clear(),
            Variant::TailReencoded => {
                let Some(last) = tail.last_mut() else { return };
                let body = &mut last.tables[0];
                for older in 0..epoch {
                    let (old, new) = (format!("\"epoch\":{older},"), format!("\"epoch\":{epoch},"));
                    body.body = body.body.replace(&old, &new);
                }
                body.sha256 = sha256_hex(body.body.as_bytes());
            }
            _ => {}
        }
    }
}
