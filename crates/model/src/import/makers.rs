//! Threads that make a decoder's tensors, some operators ahead of whoever writes them.
//!
//! The writer takes operators in the order of the program, whatever order they are made in, so a file does not show how many threads
//! there were. What is made and not yet taken, and what is being made, stays below a number of bytes; one operator alone may need more.

use std::{
    collections::BTreeMap,
    num::NonZero,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::ImportError;

/// Threads at most: beyond them reading and writing files takes longer than making tensors.
const THREADS_MAX: usize = 16;
/// Bytes that are held for operators at most.
const HELD_BYTES_MAX: u64 = 2 << 30;

/// What makes the operators' tensors.
pub(super) trait Make: Sync {
    /// An operator's tensors.
    type Made: Send;

    /// Operators, from 0 on.
    fn operators(&self) -> usize;

    /// Bytes that making an operator's tensors takes, about; `None` where there is nothing to make.
    fn bytes(&self, operator: usize) -> Option<u64>;

    /// Makes an operator's tensors.
    fn make(&self, operator: usize) -> Result<Self::Made, ImportError>;
}

/// What writer and threads share.
pub(super) struct Makers<'m, M: Make> {
    make: &'m M,
    state: Mutex<State<M::Made>>,
    /// Something was made, taken or given up.
    news: Condvar,
}

struct State<T> {
    /// The operator that is made next.
    next: usize,
    held_bytes: u64,
    made: BTreeMap<usize, thread::Result<Result<T, ImportError>>>,
    is_over: bool,
}

impl<'m, M: Make> Makers<'m, M> {
    /// Runs `write` while threads make operators from `first` on; they are gone when it returns.
    pub(super) fn run<T>(
        make: &'m M,
        first: usize,
        write: impl FnOnce(&Self) -> Result<T, ImportError>,
    ) -> Result<T, ImportError> {
        let state = State { next: first, held_bytes: 0, made: BTreeMap::new(), is_over: false };
        let makers = Self { make, state: Mutex::new(state), news: Condvar::new() };
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(THREADS_MAX);
        thread::scope(|scope| {
            // However the writer ends, nobody waits for it any more.
            let _over = Over(&makers);
            for _ in 0..threads {
                scope.spawn(|| makers.work());
            }
            write(&makers)
        })
    }

    /// The tensors of an operator that has some, once they are made. Each is taken once, in ascending order.
    pub(super) fn take(&self, operator: usize) -> Result<M::Made, ImportError> {
        let mut state = self.state();
        let made = loop {
            match state.made.remove(&operator) {
                Some(made) => break made,
                None => state = self.wait(state),
            }
        };
        state.held_bytes -= self.make.bytes(operator).unwrap_or(0);
        drop(state);
        self.news.notify_all();
        // A thread's panic is the writer's.
        made.unwrap_or_else(|panic| resume_unwind(panic))
    }

    fn work(&self) {
        while let Some(operator) = self.claim() {
            let made = catch_unwind(AssertUnwindSafe(|| self.make.make(operator)));
            self.state().made.insert(operator, made);
            self.news.notify_all();
        }
    }

    /// The next operator, once there is room for it; `None` when all are made or nobody wants them.
    fn claim(&self) -> Option<usize> {
        let mut state = self.state();
        loop {
            let wanted = (state.next..self.make.operators())
                .find_map(|operator| Some((operator, self.make.bytes(operator)?)));
            let (operator, bytes) = wanted.filter(|_| !state.is_over)?;
            if state.held_bytes == 0 || state.held_bytes + bytes <= HELD_BYTES_MAX {
                state.next = operator + 1;
                state.held_bytes += bytes;
                return Some(operator);
            }
            state = self.wait(state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State<M::Made>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'s>(&self, state: MutexGuard<'s, State<M::Made>>) -> MutexGuard<'s, State<M::Made>> {
        self.news.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the threads when it goes out of scope.
struct Over<'o, 'm, M: Make>(&'o Makers<'m, M>);

impl<M: Make> Drop for Over<'_, '_, M> {
    fn drop(&mut self) {
        self.0.state().is_over = true;
        self.0.news.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// Every third operator has nothing; each has half of what may be held, some more than all.
    struct Numbers {
        made: AtomicUsize,
        /// Which cannot be made.
        broken: usize,
        /// Which panics.
        panics: usize,
    }

    impl Make for Numbers {
        type Made = usize;

        fn operators(&self) -> usize {
            100
        }

        fn bytes(&self, operator: usize) -> Option<u64> {
            let bytes =
                if operator.is_multiple_of(7) { 2 * HELD_BYTES_MAX } else { HELD_BYTES_MAX / 2 };
            (!operator.is_multiple_of(3)).then_some(bytes)
        }

        fn make(&self, operator: usize) -> Result<usize, ImportError> {
            self.made.fetch_add(1, Relaxed);
            assert_ne!(operator, self.panics, "a thread");
            if operator == self.broken {
                return Err(ImportError::Missing { name: operator.to_string() });
            }
            Ok(operator)
        }
    }

    fn numbers(broken: usize, panics: usize) -> Numbers {
        Numbers { made: AtomicUsize::new(0), broken, panics }
    }

    fn take_all(makers: &Makers<'_, Numbers>) -> Result<(), ImportError> {
        (0..100_usize)
            .filter(|at| !at.is_multiple_of(3))
            .try_for_each(|at| makers.take(at).map(drop))
    }

    #[test]
    fn operators_come_in_order_and_no_more_are_made_than_fit() {
        let make = numbers(usize::MAX, usize::MAX);
        let ran = Makers::run(&make, 10, |makers| {
            for (taken, operator) in (10..100_usize).filter(|at| !at.is_multiple_of(3)).enumerate()
            {
                assert_eq!(makers.take(operator)?, operator);
                let made = make.made.load(Relaxed);
                assert!(made <= taken + 3, "{made} made, {taken} taken before this one");
            }
            Ok(())
        });
        ran.unwrap();
        assert_eq!(make.made.load(Relaxed), 60);
    }

    #[test]
    fn an_error_or_a_panic_on_either_side_ends_it() {
        let ran = Makers::run(&numbers(40, usize::MAX), 0, take_all);
        assert!(matches!(ran, Err(ImportError::Missing { name }) if name == "40"));
        let run = |make: &Numbers, write: fn(&Makers<'_, Numbers>) -> Result<(), ImportError>| {
            catch_unwind(AssertUnwindSafe(|| Makers::run(make, 0, write)))
        };
        assert!(run(&numbers(usize::MAX, 40), take_all).is_err());
        let make = numbers(usize::MAX, usize::MAX);
        let ran = run(&make, |makers| {
            makers.take(1)?;
            panic!("the writer")
        });
        assert!(ran.is_err());
        assert!(make.made.load(Relaxed) < 60);
    }
}
