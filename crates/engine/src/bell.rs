//! A bell that is heard even when it rings before anybody listens.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

#[derive(Debug, Default)]
pub(crate) struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    /// Returns when the bell has rung since the last wait, or after `us_max` microseconds of real time.
    pub(crate) fn wait(&self, us_max: Option<u64>) {
        let mut rung = self.rung.lock();
        match us_max.map(Duration::from_micros) {
            _ if *rung => {}
            Some(limit) => drop(self.heard.wait_for(&mut rung, limit)),
            None => self.heard.wait(&mut rung),
        }
        *rung = false;
    }
}
