//! Randomness that can be replayed.
//!
//! Every test that draws at random draws from one [`Seed`]. Its value is fixed per test, so that the gate is the same
//! in every run; `ISOBAR_SEED` sets another one, and a test that fails prints the one it used.

/// SplitMix64: small, fast, and good enough to choose test cases.
#[derive(Debug, Clone)]
pub struct Prng(u64);

impl Prng {
    /// A generator that always gives the same numbers for one `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number in `0..end`. The bias is below `end` in 2⁶⁴.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "there is no number below 0");
        ((u128::from(self.next_u64()) * u128::from(end)) >> 64) as u64
    }

    /// An index of something that has `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.index(items.len())]
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// `len` random bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = len.div_ceil(8);
        let mut bytes: Vec<u8> = (0..words).flat_map(|_| self.next_u64().to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    /// A generator of its own, so that drawing more here does not change what is drawn there.
    pub fn fork(&mut self) -> Self {
        Self(self.next_u64())
    }
}

/// The seed of one test; prints itself if the test fails.
#[derive(Debug)]
pub struct Seed {
    test: &'static str,
    value: u64,
}

impl Seed {
    /// The seed of `test`: from `ISOBAR_SEED` if set, else one that follows from the test's name.
    ///
    /// # Panics
    /// If `ISOBAR_SEED` is not a number.
    pub fn of(test: &'static str) -> Self {
        let value = match std::env::var("ISOBAR_SEED") {
            Ok(text) => text.trim().parse().expect("ISOBAR_SEED is a number"),
            // FNV-1a: the same in every build.
            Err(_) => test.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            }),
        };
        Self { test, value }
    }

    /// A generator that starts at this seed.
    pub fn prng(&self) -> Prng {
        Prng::new(self.value)
    }
}

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}: to see this again, set ISOBAR_SEED={}", self.test, self.value);
        }
    }
}
