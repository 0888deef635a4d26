//! Programs that are killed at a failpoint, and what comes after them.

use isobar_connectors::failpoint::{self, Failpoint, Scope};

use crate::events::{Generator, TOPIC};
use crate::lab::{Lab, Spec};
use crate::prng::Seed;
use crate::program::{Background, isobar, run_isobar};
use crate::wait::until;

/// Records produced at a time.
const RECORDS: usize = 40;
/// Clouds that have everything once it is decided.
const MAJORITY: usize = 2;

/// What makes a process do `action` when it reaches `point` for the `hit`th time; in `cloud`, if it is a step in clouds.
pub fn order(point: &Failpoint, cloud: &str, hit: u32, action: &str) -> String {
    let at = if point.scope == Scope::Cloud { format!("@{cloud}") } else { String::new() };
    format!("{}{at}:{hit}={action}", point.name)
}

/// Runs `spec` until it is killed at `point`, which takes many commits; then again until `has_finished`, asked after
/// every further commit, says that the next leader has done what the first one had begun; and once more until it has
/// caught up.
///
/// # Panics
/// If a run ends otherwise, or does not get there.
pub async fn kill_a_long_run(
    lab: &Lab,
    spec: &Spec,
    point: &'static Failpoint,
    cloud: &str,
    mut has_finished: impl AsyncFnMut() -> bool,
) {
    let mut records = Generator::mixed(Seed::of(point.name).prng());
    let spec = spec.written();
    let spec = spec.to_str().expect("paths of tests are UTF-8");
    let folder = lab.directory.path();
    let mut command = isobar(&["run", spec]);
    command.env(failpoint::VARIABLE, order(point, cloud, 1, "kill"));
    lab.produce(TOPIC, records.records(RECORDS));
    let mut killed = Background::start(&mut command, &folder.join("killed.log"));
    killed.says("consuming").await;
    until(point.name, async || {
        // Each round waits for a commit, so that there are many small ones, or for the end.
        lab.produce(TOPIC, records.records(RECORDS));
        until("it commits or dies", async || killed.has_ended() || lab.clouds_complete().await >= MAJORITY)
            .await;
        killed.has_ended()
    })
    .await;
    let output = killed.ended().await;
    assert_eq!(output.code, None, "{} in {cloud} did not kill\n{output}", point.name);

    let next = Background::start(&mut isobar(&["run", spec]), &folder.join("next.log"));
    until("the next leader has finished what was begun", async || {
        lab.commit_in(MAJORITY, &mut records, RECORDS).await;
        has_finished().await
    })
    .await;
    next.signal("TERM").await;
    next.ended().await.assert(0, &[]);
    run_isobar(&["run", spec, "--until-caught-up"]).await.assert(0, &[]);
}
