use super::*;
use crate::spec::gateway::check_text;

/// A state on a clock of its own, with chances from a fixed seed.
struct Simulated {
    balance: Balance,
    now: Duration,
    seed: u64,
}

const CLOUDS: [&str; 4] = ["aws", "azure", "gcp", "aws"];

impl Simulated {
    /// A backend for each of these settings, in the clouds of [`CLOUDS`], all of them up; `rest` are lines of the gateway.
    fn up(backends: &[&str], rest: &str) -> Self {
        let mut simulated = Self::new(backends, rest);
        for at in 0..backends.len() {
            assert_eq!(simulated.probed(at, ready()), Some(Notice::Up));
        }
        simulated
    }

    fn new(backends: &[&str], rest: &str) -> Self {
        let mut text = format!("gateway:\n{rest}  backends:\n");
        for (at, settings) in backends.iter().enumerate() {
            let comma = if settings.is_empty() { "" } else { ", " };
            let (port, cloud) = (at + 1, CLOUDS[at]);
            text.push_str(&format!("    - {{ url: 'http://a:{port}', cloud: {cloud}{comma}{settings} }}\n"));
        }
        let spec = check_text(&text, "gateway.yaml", std::path::Path::new("/"));
        let spec = spec.unwrap_or_else(|errors| panic!("{errors}\n{text}"));
        Self { balance: Balance::new(&spec), now: Duration::from_secs(1000), seed: 1 }
    }

    fn random(&mut self) -> u64 {
        // SplitMix64.
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn wait_ms(&mut self, ms: u64) {
        self.now += Duration::from_millis(ms);
    }

    fn choose(&mut self, tried: &[usize]) -> Option<usize> {
        let random = self.random();
        self.balance.choose(Kind::LookUp, tried, self.now, random)
    }

    /// The backends that get some of a hundred requests, of which none is under way when the next comes.
    fn chosen(&mut self, tried: &[usize]) -> Vec<usize> {
        let mut chosen: Vec<usize> = (0..100).filter_map(|_| self.choose(tried)).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }

    fn probed(&mut self, at: usize, probed: Probed) -> Option<Notice> {
        self.balance.probed(at, probed, self.now)
    }

    fn ended(&mut self, at: usize, ended: Ended) -> Option<Notice> {
        self.balance.ended(at, Kind::LookUp, ended, self.now)
    }

    /// Requests that come one every `every_ms`, and how many each backend gets; a backend takes `latencies_ms` for each.
    fn run(&mut self, requests: usize, every_ms: u64, latencies_ms: &[u64]) -> Vec<usize> {
        let mut counts = vec![0; latencies_ms.len()];
        let mut running: Vec<(Duration, usize)> = Vec::new();
        for _ in 0..requests {
            self.wait_ms(every_ms);
            let over: Vec<(Duration, usize)> =
                running.iter().copied().filter(|(until, _)| *until <= self.now).collect();
            running.retain(|(until, _)| *until > self.now);
            for (_, at) in over {
                self.balance.released(at);
                self.ended(at, Ended::Answered(Duration::from_millis(latencies_ms[at])));
            }
            let at = self.choose(&[]).expect("a backend is up");
            counts[at] += 1;
            self.balance.begun(at);
            running.push((self.now + Duration::from_millis(latencies_ms[at]), at));
        }
        for (until, at) in running {
            self.now = self.now.max(until);
            self.balance.released(at);
            self.ended(at, Ended::Answered(Duration::from_millis(latencies_ms[at])));
        }
        counts
    }
}

fn ready() -> Probed {
    Probed::Ready(Duration::from_millis(1))
}

const THREE: [&str; 3] = ["", "", ""];

#[test]
fn a_backend_is_up_after_its_first_good_probe_and_down_after_two_bad_ones() {
    let mut it = Simulated::new(&THREE, "");
    // Before anything is known, each will do.
    assert_eq!(it.chosen(&[]), [0, 1, 2]);
    assert_eq!(it.probed(1, ready()), Some(Notice::Up));
    assert_eq!(it.chosen(&[]), [1]);
    assert_eq!(it.probed(0, ready()), Some(Notice::Up));
    assert_eq!(it.probed(1, Probed::NotReady), None);
    assert!(it.balance.is_up(1, it.now));
    assert_eq!(it.probed(1, Probed::NotReady), Some(Notice::Down));
    assert_eq!(it.probed(1, Probed::NotReady), None);
    assert_eq!(it.chosen(&[]), [0]);
    // One good probe may be luck.
    assert_eq!(it.probed(1, ready()), None);
    assert_eq!(it.probed(1, Probed::Silent), None);
    assert_eq!(it.probed(1, ready()), None);
    assert_eq!(it.probed(1, ready()), Some(Notice::Up));
    assert!(it.balance.is_up(1, it.now));
}

#[test]
fn one_that_does_not_answer_is_lost_and_one_without_a_connection_is_down_at_once() {
    let mut it = Simulated::up(&THREE, "");
    assert_eq!(it.probed(0, Probed::Silent), None);
    assert_eq!(it.probed(0, Probed::Silent), Some(Notice::Lost));
    assert_eq!(it.ended(1, Ended::Unreachable), Some(Notice::Down));
    assert_eq!(it.ended(1, Ended::Unreachable), None);
    assert_eq!(it.chosen(&[]), [2]);
    assert_eq!(it.probed(2, Probed::Unreachable), Some(Notice::Down));
    // A wrong guess must not make an outage.
    assert_eq!(it.chosen(&[]), [0, 1, 2]);
}

#[test]
fn a_request_is_sent_to_each_backend_once_and_to_another_cloud_first() {
    let mut it = Simulated::up(&["", "", "", ""], "");
    // The first and the last are in the same cloud.
    assert_eq!(it.chosen(&[0]), [1, 2]);
    assert_eq!(it.chosen(&[0, 1, 2]), [3]);
    assert_eq!(it.choose(&[0, 1, 2, 3]), None);
    // One that is up comes before one in another cloud that is not.
    it.ended(1, Ended::Unreachable);
    it.ended(2, Ended::Unreachable);
    assert_eq!(it.chosen(&[0]), [3]);
}

#[test]
fn nothing_new_goes_to_a_backend_that_drains() {
    let mut it = Simulated::up(&["", "drain: true", ""], "");
    assert_eq!(it.chosen(&[]), [0, 2]);
    assert!(!it.balance.is_up(1, it.now));
    assert_eq!(it.choose(&[0, 2]), None, "not even as the last one");
    let mut specs = check_text(
        "gateway: { backends: [{ url: 'http://a:1', cloud: aws, drain: true }, { url: 'http://a:2', cloud: azure }] }",
        "gateway.yaml",
        std::path::Path::new("/"),
    )
    .unwrap()
    .backends;
    it.balance.adjust(&specs);
    assert_eq!(it.chosen(&[]), [1, 2]);
    specs[0].is_draining = false;
    it.balance.adjust(&specs);
    assert_eq!(it.chosen(&[]), [0, 1, 2]);
}

#[test]
fn the_order_counts_until_its_first_is_gone() {
    let mut it = Simulated::up(&THREE, "  prefer: order\n");
    assert_eq!(it.chosen(&[]), [0]);
    assert_eq!(it.chosen(&[0]), [1]);
    it.ended(0, Ended::Unreachable);
    assert_eq!(it.chosen(&[]), [1]);
    it.probed(0, ready());
    it.probed(0, ready());
    assert_eq!(it.chosen(&[]), [0]);
}

#[test]
fn the_cheapest_that_works_is_asked_and_equal_prices_share() {
    let mut it = Simulated::up(&["price: 0.5", "price: 0", "price: 0.0"], "  prefer: cheapest\n");
    assert_eq!(it.chosen(&[]), [1, 2]);
    it.ended(1, Ended::Unreachable);
    it.ended(2, Ended::Unreachable);
    assert_eq!(it.chosen(&[]), [0]);
}

#[test]
fn the_fastest_gets_most_and_a_slow_one_little() {
    let mut it = Simulated::up(&THREE, "");
    let counts = it.run(3_000, 1, &[2, 2, 50]);
    assert!(counts[2] < 300 && counts[0] > 600 && counts[1] > 600, "{counts:?}");
    // Once it is as fast as the others, it gets its part again.
    it.wait_ms(60_000);
    it.run(5_000, 1, &[2, 2, 2]);
    let counts = it.run(3_000, 1, &[2, 2, 2]);
    assert!(counts.iter().all(|count| *count > 600), "{counts:?}");
}

#[test]
fn under_load_backends_get_requests_by_their_weights() {
    let mut it = Simulated::up(&["weight: 4", "weight: 1"], "");
    // Twenty requests are under way at a time.
    let counts = it.run(4_000, 1, &[20, 20]);
    let share = counts[0] as f64 / 4_000.0;
    assert!((0.7..0.9).contains(&share), "{counts:?}");
}

#[test]
fn backends_that_have_nothing_to_do_get_requests_by_their_weights() {
    let mut it = Simulated::up(&["weight: 40", "weight: 10"], "");
    let chosen: Vec<usize> = (0..4_000).filter_map(|_| it.choose(&[])).collect();
    let first = chosen.iter().filter(|at| **at == 0).count();
    assert!((3_000..3_400).contains(&first), "{first} of {}", chosen.len());
}

#[test]
fn the_loss_of_a_cloud_costs_a_request_one_retry_and_its_return_nothing() {
    let mut it = Simulated::up(&THREE, "  slow_start: 0s\n");
    let (mut retried, mut of_returned) = (0, 0);
    for number in 0..5_000 {
        it.wait_ms(1);
        let is_gone = (1_000..3_000).contains(&number);
        if number == 1_000 {
            // What it has under way breaks off.
            for _ in 0..3 {
                it.ended(1, Ended::Broken);
                assert!(matches!(it.choose(&[1]), Some(0 | 2)));
            }
        }
        if number % 1_000 == 500 {
            it.probed(1, if is_gone { Probed::Unreachable } else { ready() });
        }
        let mut at = it.choose(&[]).unwrap();
        if at == 1 && is_gone {
            retried += 1;
            it.ended(1, Ended::Unreachable);
            at = it.choose(&[1]).unwrap();
            assert!(at != 1);
        }
        of_returned += usize::from(at == 1 && number >= 3_000);
        it.ended(at, Ended::Answered(Duration::from_millis(1)));
    }
    // The first one that is sent there finds out for all others.
    assert_eq!(retried, 1);
    assert!(of_returned > 100, "{of_returned}");
}

#[test]
fn a_backend_that_came_back_gets_its_share_little_by_little() {
    let mut it = Simulated::up(&THREE, "  slow_start: 10s\n");
    it.run(1_000, 1, &[10, 10, 10]);
    it.ended(2, Ended::Unreachable);
    it.probed(2, ready());
    assert_eq!(it.probed(2, ready()), Some(Notice::Up));
    // A second, with ten requests under way at a time, and then once the time is over.
    let early = it.run(1_000, 1, &[10, 10, 10]);
    it.wait_ms(10_000);
    it.run(2_000, 1, &[10, 10, 10]);
    let late = it.run(1_000, 1, &[10, 10, 10]);
    assert!(early[2] < 200 && late[2] > 200, "{early:?} {late:?}");
}

#[test]
fn one_that_fails_more_than_the_others_is_left_alone_for_longer_each_time() {
    let mut it = Simulated::up(&THREE, "");
    for (time, pause_s) in [5, 10, 20, 40, 60, 60].into_iter().enumerate() {
        for at in [0, 1] {
            (0..10).for_each(|_| _ = it.ended(at, Ended::Answered(Duration::from_millis(1))));
        }
        for _ in 0..4 {
            assert_eq!(it.ended(2, Ended::Failed), None);
        }
        assert_eq!(it.ended(2, Ended::Failed), Some(Notice::LeftAlone), "time {time}");
        assert_eq!(it.chosen(&[]), [0, 1]);
        // What it had under way fails too, which is no news.
        (0..10).for_each(|_| assert_eq!(it.ended(2, Ended::Failed), None));
        it.wait_ms(pause_s * 1000 - 1);
        assert!(!it.balance.is_up(2, it.now), "time {time}");
        it.wait_ms(1);
        assert!(it.balance.is_up(2, it.now), "time {time}");
    }
    // After a good while it is as if it had never been.
    it.wait_ms(61_000);
    (0..10).for_each(|_| _ = it.ended(0, Ended::Answered(Duration::from_millis(1))));
    (0..5).for_each(|_| _ = it.ended(2, Ended::Broken));
    it.wait_ms(5_000);
    assert!(it.balance.is_up(2, it.now));
}

#[test]
fn a_request_that_breaks_every_backend_turns_none_away() {
    let mut it = Simulated::up(&THREE, "");
    for _ in 0..100 {
        for at in 0..3 {
            assert_eq!(it.ended(at, Ended::Broken), Some(Notice::Suspected));
        }
        it.wait_ms(20);
    }
    assert_eq!(it.chosen(&[]), [0, 1, 2]);
}

#[test]
fn the_last_one_that_is_up_is_never_left_alone() {
    let mut it = Simulated::up(&THREE, "");
    for at in [0, 1] {
        (0..10).for_each(|_| _ = it.ended(at, Ended::Answered(Duration::from_millis(1))));
        it.ended(at, Ended::Unreachable);
    }
    for _ in 0..20 {
        assert_eq!(it.ended(2, Ended::Failed), None);
    }
    assert_eq!(it.chosen(&[]), [2]);
}

#[test]
fn answers_that_break_off_are_failures() {
    let mut it = Simulated::up(&THREE, "");
    for at in [0, 1] {
        (0..10).for_each(|_| _ = it.ended(at, Ended::Answered(Duration::from_millis(1))));
    }
    for _ in 0..4 {
        it.ended(2, Ended::Answered(Duration::from_millis(1)));
        assert_eq!(it.balance.broke_off(2, it.now), Notice::Suspected);
    }
    assert_eq!(it.ended(2, Ended::Broken), Some(Notice::LeftAlone));
}

#[test]
fn retries_are_a_share_of_the_requests_of_ten_seconds() {
    let mut it = Simulated::up(&THREE, "  retries: 20%\n");
    let granted = |it: &mut Simulated| (0..10_000).filter(|_| it.balance.may_retry(it.now)).count();
    assert_eq!(granted(&mut it), 100, "a few in any case");
    it.wait_ms(10_000);
    (0..5_000).for_each(|_| it.balance.asked(it.now));
    assert_eq!(granted(&mut it), 1_000);
    assert_eq!(granted(&mut it), 0);
    it.wait_ms(9_000);
    assert_eq!(granted(&mut it), 0, "the window is not over");
    it.wait_ms(1_000);
    assert_eq!(granted(&mut it), 100);
}

#[test]
fn a_share_of_nothing_is_none_at_all() {
    let mut it = Simulated::up(&THREE, "  retries: 0%\n  hedges: 0%\n");
    (0..1_000).for_each(|_| it.balance.asked(it.now));
    assert!(!it.balance.may_retry(it.now) && !it.balance.may_hedge(0, it.now) && !it.balance.may_move());
    let mut it = Simulated::up(&THREE, "  hedges: 5%\n");
    (0..1_000).for_each(|_| it.balance.asked(it.now));
    assert_eq!((0..1_000).filter(|_| it.balance.may_hedge(0, it.now)).count(), 50);
}

#[test]
fn what_no_backend_works_on_is_sent_elsewhere_without_an_end() {
    let mut it = Simulated::up(&THREE, "");
    assert_eq!((0..1_000).filter(|_| it.balance.may_retry(it.now)).count(), 100);
    assert!(!it.balance.may_retry(it.now) && it.balance.may_move());
}

#[test]
fn a_second_backend_is_one_that_is_up() {
    let mut it = Simulated::up(&["", "drain: true", ""], "");
    it.ended(2, Ended::Unreachable);
    assert_eq!([0, 1, 2].map(|at| it.balance.may_hedge(at, it.now)), [true, false, false]);
}

#[test]
fn a_second_backend_is_asked_after_what_is_usual_for_the_kind() {
    let mut it = Simulated::up(&THREE, "");
    for ms in 1..=31 {
        it.ended(0, Ended::Answered(Duration::from_millis(ms)));
        assert_eq!(it.balance.hedge_after(Kind::LookUp), None);
    }
    it.ended(0, Ended::Answered(Duration::from_millis(32)));
    assert_eq!(it.balance.hedge_after(Kind::LookUp), Some(Duration::from_millis(31)));
    assert_eq!(it.balance.hedge_after(Kind::Query), None);
    // What is no longer usual is forgotten.
    (0..512).for_each(|_| _ = it.ended(0, Ended::Answered(Duration::from_millis(100))));
    assert_eq!(it.balance.hedge_after(Kind::LookUp), Some(Duration::from_millis(100)));
}

#[test]
fn one_that_has_no_room_is_not_taken_for_fast() {
    let mut it = Simulated::up(&["", ""], "");
    it.ended(0, Ended::Answered(Duration::from_millis(20)));
    it.ended(1, Ended::Answered(Duration::from_millis(10)));
    for _ in 0..100 {
        it.wait_ms(10);
        it.ended(0, Ended::Full);
        assert_eq!(it.chosen(&[]), [1]);
    }
}

#[test]
fn one_that_was_given_up_is_known_to_be_slow() {
    let mut it = Simulated::up(&["", ""], "");
    for at in [0, 1] {
        it.ended(at, Ended::Answered(Duration::from_millis(1)));
    }
    it.ended(0, Ended::Abandoned(Duration::from_millis(200)));
    assert_eq!(it.chosen(&[]), [1]);
    // A short wait says nothing.
    it.ended(0, Ended::Abandoned(Duration::from_micros(1)));
    assert_eq!(it.chosen(&[]), [1]);
    // After a while it is tried again.
    it.wait_ms(30_000);
    it.ended(1, Ended::Answered(Duration::from_millis(1)));
    assert_eq!(it.chosen(&[]), [0]);
}
