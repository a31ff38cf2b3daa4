//! Places inside a commit where a test may stop the store, as a crash would.
//!
//! A plan names a point and what happens there. Tests that reopen in the same process stop with
//! [`StoreError::Stopped`]; the torture supervisor's child kills itself with SIGKILL.

use std::sync::{
    Arc,
    atomic::{AtomicU8, AtomicU32, Ordering},
};

use crate::{Result, StoreError};

/// The gaps between the phases of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum CrashPoint {
    /// Entries and chunks are built, nothing is written.
    BeforeWrite = 1,
    /// The tail's record is about to be written: half of it reaches the file.
    TailTorn = 2,
    /// The tail's record is durable, nobody has seen the block.
    TailDurable = 3,
    /// A log transaction is filled, not committed.
    LogWritten = 4,
    /// The log transaction is durable, the tail not yet reset.
    LogDurable = 5,
    /// The block is in memory, not published.
    Applied = 6,
    /// The new head is visible.
    Published = 7,
}

impl CrashPoint {
    /// Every point, in the order a commit passes them.
    pub const ALL: [Self; 7] = [
        Self::BeforeWrite,
        Self::TailTorn,
        Self::TailDurable,
        Self::LogWritten,
        Self::LogDurable,
        Self::Applied,
        Self::Published,
    ];
}

/// Where to stop; shared by whoever sets it and the store. The default never stops.
#[derive(Clone, Debug, Default)]
pub struct CrashPlan(Arc<Plan>);

#[derive(Debug, Default)]
struct Plan {
    point: AtomicU8,
    passes: AtomicU32,
    kills: AtomicU8,
}

impl CrashPlan {
    /// Stops with an error when `point` has been passed `passes` times before.
    pub fn stop_at(&self, point: CrashPoint, passes: u32) {
        self.0.passes.store(passes, Ordering::Relaxed);
        self.0.point.store(point as u8, Ordering::Relaxed);
    }

    /// As [`stop_at`](Self::stop_at), by SIGKILL to this process.
    pub fn kill_at(&self, point: CrashPoint, passes: u32) {
        self.0.kills.store(1, Ordering::Relaxed);
        self.stop_at(point, passes);
    }

    /// Stops here if this is the planned point.
    pub(crate) fn pass(&self, point: CrashPoint) -> Result<()> {
        if self.is_due(point) { Err(self.stop(point)) } else { Ok(()) }
    }

    /// Whether `point` is the planned one and its passes are used up; counts the pass.
    pub(crate) fn is_due(&self, point: CrashPoint) -> bool {
        let plan = &self.0;
        plan.point.load(Ordering::Relaxed) == point as u8
            && plan
                .passes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1))
                .is_err()
    }

    /// Ends the process if that is the plan, else gives the error that ends the commit.
    pub(crate) fn stop(&self, point: CrashPoint) -> StoreError {
        if self.0.kills.load(Ordering::Relaxed) == 1 {
            use rustix::process::{Signal, getpid, kill_process};
            let _ = kill_process(getpid(), Signal::KILL);
        }
        StoreError::Stopped(point)
    }
}
