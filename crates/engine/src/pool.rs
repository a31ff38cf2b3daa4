//! The threads that kernels run on.
//!
//! A region of `parts` parts is opened by the thread that calls [`run`](Parallel::run) and worked on by it and
//! by whichever helpers are awake; parts are drawn from one counter, so a late helper costs nothing but its
//! help. Between regions helpers spin for some tens of microseconds, which spans the gaps inside one forward
//! pass, and then sleep.
//!
//! `gate` holds everything that decides whether a helper may touch the region, in one word: open or not, how
//! many helpers are inside, and the region's number.
//!
//! ```text
//! caller: publish task -> open gate -> work -> close gate -> wait until nobody is inside -> take task back
//! helper: see an open gate with a new number -> enter (compare-exchange on the gate) -> work -> leave
//! ```

use std::{
    fmt, hint,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

use hyperion_ops::Parallel;
use parking_lot::{Condvar, Mutex, RwLock};

/// The region takes helpers in.
const OPEN: u64 = 1;
/// One helper inside.
const INSIDE: u64 = 2;
/// Bits that count helpers inside.
const INSIDE_MASK: u64 = 0x1_fffe;
/// The next region's number.
const REGION: u64 = 0x2_0000;
/// Looks at the gate before a helper sleeps; 50 to 100 µs on current x86 cores.
const SPINS: u32 = 3_000;

/// A region's work. The lifetime is a white lie; [`KernelPool::run`] keeps it true.
#[derive(Clone, Copy)]
struct Task {
    part: &'static (dyn Fn(usize) + Sync),
    parts: usize,
}

#[derive(Default)]
struct Shared {
    gate: AtomicU64,
    task: RwLock<Option<Task>>,
    /// The next part to be drawn.
    next: AtomicUsize,
    panicked: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    bed: Mutex<()>,
    bell: Condvar,
}

impl Shared {
    /// Draws parts until there are none.
    fn work(&self, task: Task) {
        loop {
            let part = self.next.fetch_add(1, SeqCst);
            if part >= task.parts {
                return;
            }
            (task.part)(part);
        }
    }

    /// The gate of a region other than `seen` that is open; `None` when the pool goes down.
    fn next_open(&self, seen: u64) -> Option<u64> {
        let is_new = |gate: u64| gate & OPEN != 0 && gate / REGION != seen;
        loop {
            for _ in 0..SPINS {
                let gate = self.gate.load(SeqCst);
                if is_new(gate) {
                    return Some(gate);
                }
                if self.stop.load(SeqCst) {
                    return None;
                }
                hint::spin_loop();
            }
            let mut bed = self.bed.lock();
            // Counted before the last look: either this look sees the gate, or the caller sees the sleeper.
            self.sleepers.fetch_add(1, SeqCst);
            while !is_new(self.gate.load(SeqCst)) && !self.stop.load(SeqCst) {
                self.bell.wait(&mut bed);
            }
            self.sleepers.fetch_sub(1, SeqCst);
        }
    }

    fn help(&self) {
        let mut seen = 0;
        while let Some(gate) = self.next_open(seen) {
            if self.gate.compare_exchange(gate, gate + INSIDE, SeqCst, SeqCst).is_err() {
                continue;
            }
            seen = gate / REGION;
            let task = self.task.read().expect("an open region has a task");
            if catch_unwind(AssertUnwindSafe(|| self.work(task))).is_err() {
                self.panicked.store(true, SeqCst);
                // Nobody needs the other parts of a region that failed.
                self.next.store(task.parts, SeqCst);
            }
            self.gate.fetch_sub(INSIDE, SeqCst);
        }
    }

    fn wake(&self) {
        if self.sleepers.load(SeqCst) > 0 {
            let _bed = self.bed.lock();
            self.bell.notify_all();
        }
    }
}

/// An open region; dropping it closes the gate and waits until every helper has left, also when the caller's
/// own part panics.
struct Region<'a>(&'a Shared);

impl Drop for Region<'_> {
    fn drop(&mut self) {
        self.0.gate.fetch_and(!OPEN, SeqCst);
        let mut looks = 0;
        while self.0.gate.load(SeqCst) & INSIDE_MASK != 0 {
            looks += 1;
            if looks < SPINS {
                hint::spin_loop();
            } else {
                thread::yield_now();
            }
        }
        *self.0.task.write() = None;
    }
}

/// Threads that run the parts of operators; they live as long as the pool.
///
/// Several devices may share a pool: while it works for one, another runs its parts alone.
pub struct KernelPool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    turn: Mutex<()>,
}

impl fmt::Debug for KernelPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelPool").field("threads", &self.threads()).finish_non_exhaustive()
    }
}

impl KernelPool {
    /// A pool in which `threads` threads work, the caller's among them; 0 counts as 1.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let mut pool = Self { shared: Arc::default(), helpers: Vec::new(), turn: Mutex::default() };
        for helper in 1..threads.clamp(1, usize::from(u16::MAX / 2)) {
            let shared = Arc::clone(&pool.shared);
            let builder = thread::Builder::new().name(format!("kernel-{helper}"));
            pool.helpers.push(builder.spawn(move || shared.help())?);
        }
        Ok(pool)
    }
}

impl Parallel for KernelPool {
    fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    #[expect(
        unsafe_code,
        reason = "persistent threads borrow from the caller's stack while a region is open"
    )]
    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let turn = self.turn.try_lock().filter(|_| parts > 1 && !self.helpers.is_empty());
        let Some(_turn) = turn else {
            (0..parts).for_each(part);
            return;
        };
        // SAFETY: helpers reach `part` only through `task`, and only between entering and leaving an open gate.
        // `Region::drop` runs before this function returns or unwinds: it closes the gate, waits until nobody
        // is inside and takes the task back, so no helper holds `part` longer than the borrow lasts.
        let part = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(part)
        };
        let (shared, task) = (&*self.shared, Task { part, parts });
        *shared.task.write() = Some(task);
        shared.next.store(0, SeqCst);
        shared.panicked.store(false, SeqCst);
        let number = shared.gate.load(SeqCst) / REGION + 1;
        let region = Region(shared);
        shared.gate.store(number.wrapping_mul(REGION) | OPEN, SeqCst);
        shared.wake();
        shared.work(task);
        drop(region);
        assert!(!shared.panicked.load(SeqCst), "a part of an operator panicked");
    }
}

impl Drop for KernelPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.wake();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its parts, so it has none of its own to report.
            let _ = helper.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_runs_once_whatever_the_number_of_threads() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = KernelPool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads.max(1));
            for parts in [0, 1, 2, 3, 7, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
                pool.run(parts, &|part| {
                    counts[part].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "{threads} {parts}");
            }
        }
    }

    #[test]
    fn regions_follow_each_other_while_helpers_come_late_or_sleep() {
        let pool = KernelPool::new(4).unwrap();
        let sum = AtomicUsize::new(0);
        for region in 0..20_000 {
            let local = region;
            pool.run(3, &|part| {
                sum.fetch_add(local + part, SeqCst);
            });
        }
        assert_eq!(sum.load(SeqCst), (0..20_000).map(|region| 3 * region + 3).sum::<usize>());
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = KernelPool::new(3).unwrap();
        for culprit in [0, 5, 19] {
            let caught = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|part| assert_ne!(part, culprit));
            }));
            assert!(caught.is_err(), "{culprit}");
        }
        let count = AtomicUsize::new(0);
        pool.run(20, &|_| {
            count.fetch_add(1, SeqCst);
        });
        assert_eq!(count.load(SeqCst), 20);
    }

    #[test]
    fn two_callers_at_once_both_get_their_parts() {
        let pool = KernelPool::new(2).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let count = AtomicUsize::new(0);
                        pool.run(5, &|_| {
                            count.fetch_add(1, SeqCst);
                        });
                        assert_eq!(count.load(SeqCst), 5);
                    }
                });
            }
        });
    }

    #[test]
    fn a_part_may_open_a_region_of_its_own() {
        let pool = KernelPool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(4, &|_| {
                count.fetch_add(1, SeqCst);
            });
        });
        assert_eq!(count.load(SeqCst), 16);
    }
}
