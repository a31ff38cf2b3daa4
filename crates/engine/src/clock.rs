//! Time is an input.

use std::sync::atomic::{AtomicU64, Ordering};

/// Where the engine reads the time.
///
/// The engine sleeps in real time but decides by this clock alone; whoever makes a clock jump calls
/// [`Engine::tick`](crate::Engine::tick) afterwards, so that sleepers look again.
pub trait Clock: Send + Sync {
    /// Microseconds since some fixed moment; never goes back.
    fn now_us(&self) -> u64;

    /// Unix time in seconds, for `challengeUntil`.
    fn unix_s(&self) -> u64;
}

/// A clock that stands still until it is moved; for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_us: AtomicU64,
    unix_s: u64,
}

impl ManualClock {
    /// A clock at 0 µs whose Unix time began at `unix_s`.
    pub const fn new(unix_s: u64) -> Self {
        Self { now_us: AtomicU64::new(0), unix_s }
    }

    /// Moves the clock on and gives the new time in microseconds.
    pub fn advance_us(&self, by_us: u64) -> u64 {
        self.now_us.fetch_add(by_us, Ordering::SeqCst) + by_us
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst)
    }

    fn unix_s(&self) -> u64 {
        self.unix_s + self.now_us() / 1_000_000
    }
}
