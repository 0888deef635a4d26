//! Takes up changes of a gateway's file: what can change while it runs is `weight`, `price` and `drain`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::client::Client;
use crate::spec::gateway::{self, BackendSpec, GatewaySpec};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Follows `file` until `shutdown`.
pub(super) async fn follow(client: Client, file: PathBuf, shutdown: CancellationToken) {
    let mut seen = state(&file).await;
    let mut spec = client.0.spec.clone();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        let now = state(&file).await;
        if now.is_none() || now == seen {
            continue;
        }
        seen = now;
        match gateway::load(&file) {
            Ok(changed) if are_the_same(&spec.backends, &changed.backends) => {
                client.adjust(&changed.backends);
                info!("weights, prices and draining are those of the changed file");
                if needs_a_restart(&spec, &changed) {
                    warn!("other settings of the file have changed too, which needs a restart");
                }
                spec.backends = changed.backends;
            }
            Ok(_) => warn!("the file names other backends, which needs a restart"),
            Err(errors) => warn!(%errors, "the changed file is wrong; the gateway stays as it is"),
        }
    }
}

/// Whether the backends are those that there were, in their order.
fn are_the_same(before: &[BackendSpec], after: &[BackendSpec]) -> bool {
    let names = |backends: &[BackendSpec]| -> Vec<_> {
        backends.iter().map(|backend| (backend.url.clone(), backend.cloud.clone())).collect()
    };
    names(before) == names(after)
}

/// Whether something has changed beside the backends.
fn needs_a_restart(before: &GatewaySpec, after: &GatewaySpec) -> bool {
    let rest = |spec: &GatewaySpec| format!("{:?}", GatewaySpec { backends: Vec::new(), ..spec.clone() });
    rest(before) != rest(after)
}

/// When the file was written, and how long it is; `None` while it is not there.
async fn state(file: &Path) -> Option<(SystemTime, u64)> {
    let metadata = tokio::fs::metadata(file).await.ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
