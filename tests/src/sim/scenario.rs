//! What happens to the machines and clouds of one run.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::broken::Broken;
use super::cloud::Weather;
use super::machine::{Machine, Site};
use super::world::{NATURE, Process};
use crate::prng::Prng;

/// Within this time after the last fault everything must be equal everywhere.
const CONVERGENCE: Duration = Duration::from_secs(60);

/// The outline of a run.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) clouds: usize,
    machines: usize,
    pub(super) partitions: usize,
    /// How long things go wrong.
    trouble: Duration,
    /// Mean pause between two troubles, in milliseconds.
    calm_ms: u64,
    pub(super) bad_network_percent: u64,
    pub(super) batch_offsets_max: u64,
    /// Whether a cloud loses everything once.
    wipes: bool,
    /// The cloud that stays away when everything else is well again, and how.
    lost: Option<(usize, Weather)>,
}

impl Plan {
    pub(super) fn draw(prng: &mut Prng) -> Self {
        let clouds = *prng.pick(&[1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 5]);
        let wipes = clouds >= 3 && prng.chance(25);
        let loses = clouds >= 3 && !wipes && prng.chance(40);
        let lost = (prng.index(clouds), *prng.pick(&[Weather::Refusing, Weather::Silent, Weather::Deaf]));
        Self {
            clouds,
            machines: 2 + prng.index(3),
            partitions: 1 + prng.index(4),
            trouble: Duration::from_secs(60 + prng.below(120)),
            calm_ms: *prng.pick(&[500, 1000, 2000, 4000, 8000]),
            bad_network_percent: *prng.pick(&[0, 0, 5, 20]),
            batch_offsets_max: *prng.pick(&[3, 20, 60]),
            wipes,
            lost: loses.then_some(lost),
        }
    }
}

/// The machines and what runs on them.
struct Hand {
    site: Arc<Site>,
    plan: Plan,
    prng: Prng,
    machines: Arc<Mutex<Vec<Option<Process>>>>,
    processes: u32,
    wiped: bool,
}

/// Plays a run to its end.
pub(super) async fn play(site: Arc<Site>, plan: Plan, prng: Prng) {
    site.world.note(format_args!("{plan:?}"));
    let machines = Arc::new(Mutex::new(vec![None; plan.machines]));
    let mut hand = Hand { site, plan, prng, machines, processes: 0, wiped: false };
    hand.begin();
    hand.await_begin().await;
    hand.make_trouble().await;
    hand.make_peace();
    hand.expect_convergence().await;
}

impl Hand {
    fn begin(&mut self) {
        for machine in 0..self.plan.machines {
            self.start(machine);
        }
        for partition in 0..self.plan.partitions {
            let machine = self.prng.index(self.plan.machines);
            self.site.kafka.assign(partition, machine, 0);
        }
    }

    fn running(&self, machine: usize) -> Option<Process> {
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)[machine]
    }

    /// Starts a process on a machine that has none.
    fn start(&mut self, machine: usize) {
        if self.running(machine).is_some() {
            return;
        }
        self.processes += 1;
        let process = Process(self.processes);
        self.site.world.note(format_args!("machine {machine} starts process {}", process.0));
        let clock_skew_ms = self.prng.below(1_200_000) as i64 - 600_000;
        let life = Machine { site: self.site.clone(), number: machine, process, clock_skew_ms }.run();
        let machines = self.machines.clone();
        machines.lock().unwrap_or_else(PoisonError::into_inner)[machine] = Some(process);
        let world = self.site.world.clone();
        self.site.world.spawn(process, async move {
            life.await;
            world.note(format_args!("process {} has ended", process.0));
            machines.lock().unwrap_or_else(PoisonError::into_inner)[machine] = None;
            world.kill(process);
        });
    }

    /// Most runs let the first start succeed; the others see how that goes wrong.
    async fn await_begin(&mut self) {
        let patience_us = if self.prng.chance(85) { 60_000_000 } else { 0 };
        while self.site.monitor.decisions() == 0 && self.site.world.now_us() < patience_us {
            self.site.world.sleep(Duration::from_millis(100)).await;
        }
    }

    async fn pause_ms(&mut self, mean_ms: u64) {
        let pause_us = self.prng.below(2 * mean_ms * 1000);
        self.site.world.sleep(Duration::from_micros(pause_us)).await;
    }

    async fn make_trouble(&mut self) {
        let end_us = self.site.world.now_us() + self.plan.trouble.as_micros() as u64;
        while self.site.world.now_us() < end_us {
            self.pause_ms(self.plan.calm_ms).await;
            self.produce();
            match self.prng.below(100) {
                0..25 => self.change_weather(),
                25..40 => self.change_a_way(),
                40..55 => self.kill(),
                55..75 => (0..self.plan.machines).for_each(|machine| self.start(machine)),
                75..85 => self.pause_a_process(),
                85..92 => self.rebalance(),
                92..94 => self.wipe(),
                _ => self.remove_a_record(),
            }
        }
    }

    fn produce(&mut self) {
        let partition = self.prng.index(self.plan.partitions);
        let records = self.prng.below(40) as i64;
        self.site.kafka.produce(partition, records);
    }

    fn draw_weather(&mut self) -> Weather {
        match self.prng.below(12) {
            0..4 => Weather::Clear,
            4 => Weather::Slow,
            5 => Weather::Refusing,
            6 => Weather::Silent,
            7 => Weather::Deaf,
            8 => Weather::ReadOnly,
            _ => Weather::Rough(*self.prng.pick(&[5, 20, 50])),
        }
    }

    fn change_weather(&mut self) {
        let weather = self.draw_weather();
        let cloud = self.prng.index(self.plan.clouds);
        self.site.clouds[cloud].set_weather(weather);
    }

    fn change_a_way(&mut self) {
        let weather = self.draw_weather();
        let (cloud, machine) = (self.prng.index(self.plan.clouds), self.prng.index(self.plan.machines));
        self.site.clouds[cloud].set_way(machine, weather);
    }

    fn kill(&mut self) {
        let machine = self.prng.index(self.plan.machines);
        let process = self.machines.lock().unwrap_or_else(PoisonError::into_inner)[machine].take();
        if let Some(process) = process {
            self.site.world.note(format_args!("process {} is killed", process.0));
            self.site.world.kill(process);
        }
    }

    /// A process that is not run for up to a minute, and then goes on as if nothing had happened.
    fn pause_a_process(&mut self) {
        let machine = self.prng.index(self.plan.machines);
        let Some(process) = self.running(machine) else { return };
        let pause = Duration::from_millis(self.prng.below(60_000));
        self.site.world.note(format_args!("process {} is paused for {pause:?}", process.0));
        self.site.world.pause(process);
        let world = self.site.world.clone();
        self.site.world.spawn(NATURE, async move {
            world.sleep(pause).await;
            world.note(format_args!("process {} goes on", process.0));
            world.resume(process);
        });
    }

    fn rebalance(&mut self) {
        let (partition, machine) =
            (self.prng.index(self.plan.partitions), self.prng.index(self.plan.machines));
        let noticed_us = self.site.world.now_us() + self.prng.below(30_000_000);
        self.site.world.note(format_args!("partition {partition} moves to machine {machine}"));
        self.site.kafka.assign(partition, machine, noticed_us);
    }

    fn wipe(&mut self) {
        if self.plan.wipes && !std::mem::replace(&mut self.wiped, true) {
            let cloud = &self.site.clouds[self.prng.index(self.plan.clouds)];
            if self.prng.chance(50) { cloud.wipe() } else { cloud.wipe_after_claim() }
        }
    }

    /// The mistake of [`Broken::RecordsRemoved`].
    fn remove_a_record(&mut self) {
        if self.site.broken != Some(Broken::RecordsRemoved) {
            return;
        }
        let cloud = self.prng.index(self.plan.clouds);
        let records = self.site.clouds[cloud].paths(&format!("control/{}/log/", super::TOPOLOGY));
        if !records.is_empty() {
            self.site.clouds[cloud].remove(self.prng.pick::<String>(&records));
        }
    }

    /// Ends every fault but one: clear sky, good network, every machine up and running, nobody restless. In some runs
    /// one cloud is lost for good; the others must go on without it.
    fn make_peace(&mut self) {
        self.site.world.note("peace");
        self.site.clouds.iter().for_each(|cloud| cloud.clear());
        // The first start needs every cloud once.
        self.plan.lost = self.plan.lost.filter(|_| self.site.monitor.decisions() > 0);
        if let Some((cloud, weather)) = self.plan.lost {
            self.site.clouds[cloud].set_weather(weather);
        }
        *self.site.bad_network_percent.lock().unwrap_or_else(PoisonError::into_inner) = 0;
        *self.site.unrest.lock().unwrap_or_else(PoisonError::into_inner) = false;
        for machine in 0..self.plan.machines {
            if let Some(process) = self.running(machine) {
                self.site.world.resume(process);
            }
            self.start(machine);
        }
    }

    async fn expect_convergence(&mut self) {
        let end_us = self.site.world.now_us() + CONVERGENCE.as_micros() as u64;
        let lost = self.plan.lost.map(|(cloud, _)| cloud);
        while let Some(missing) = self.site.monitor.missing(lost) {
            if self.site.world.now_us() > end_us {
                return self.site.world.violated(format_args!("not equal {CONVERGENCE:?} later: {missing}"));
            }
            self.site.world.sleep(Duration::from_millis(250)).await;
            for machine in 0..self.plan.machines {
                self.start(machine);
            }
        }
        self.site.world.note("equal everywhere");
    }
}
