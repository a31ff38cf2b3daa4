//! The one place that reads a clock.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hyperion_engine::Clock;

/// The machine's clocks.
#[derive(Debug)]
pub struct MachineClock {
    start: Instant,
}

impl MachineClock {
    /// A clock whose microseconds count from now.
    #[expect(clippy::disallowed_methods, reason = "this is where time becomes an input")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Milliseconds since the Unix epoch, for block times.
    #[expect(clippy::disallowed_methods, reason = "this is where time becomes an input")]
    pub fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for MachineClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for MachineClock {
    fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn unix_s(&self) -> u64 {
        self.unix_ms() / 1000
    }
}
