//! When a batch leaves.
//!
//! A batch leaves when it is full or its oldest job has waited long enough. With
//! [`wait_us_max`](BatchLimits::wait_us_max) at 0 an idle device takes whatever is there, and batches grow
//! by themselves while devices are busy: then nobody waits for company that may not come.

use crate::BatchLimits;

/// Whether the jobs that wait should leave now.
///
/// | argument | meaning |
/// |---|---|
/// | `rows`, `jobs` | of all that wait |
/// | `since_us` | when the oldest came |
pub const fn is_due(limits: BatchLimits, rows: u64, jobs: u64, since_us: u64, now_us: u64) -> bool {
    rows >= limits.rows_max as u64
        || jobs >= limits.jobs_max as u64
        || now_us.saturating_sub(since_us) >= limits.wait_us_max
}

/// Whether one more job of `rows` rows goes into a batch that holds `jobs` of `held_rows`. The first always
/// does: an input longer than a batch runs alone.
pub const fn has_room(limits: BatchLimits, held_rows: u64, jobs: u64, rows: u32) -> bool {
    jobs == 0 || jobs < limits.jobs_max as u64 && held_rows + rows as u64 <= limits.rows_max as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: BatchLimits = BatchLimits { rows_max: 512, jobs_max: 8, wait_us_max: 500 };

    #[test]
    fn a_batch_leaves_when_full_or_old() {
        let cases = [
            ("young and small", 511, 7, 499, false),
            ("full of rows", 512, 1, 0, true),
            ("full of jobs", 8, 8, 0, true),
            ("old", 1, 1, 500, true),
            ("a clock that stands still", 1, 1, 0, false),
        ];
        for (name, rows, jobs, age, due) in cases {
            assert_eq!(is_due(LIMITS, rows, jobs, 1_000, 1_000 + age), due, "{name}");
        }
        let at_once = BatchLimits { wait_us_max: 0, ..LIMITS };
        assert!(is_due(at_once, 1, 1, 7, 7), "without a wait, one job is enough");
    }

    #[test]
    fn a_batch_takes_what_fits_and_always_one() {
        let cases = [
            ("longer than a batch, alone", 0, 0, 10_000, true),
            ("longer than a batch, in company", 1, 1, 512, false),
            ("the last row", 511, 1, 1, true),
            ("a row too many", 512, 1, 1, false),
            ("a job too many", 8, 8, 1, false),
        ];
        for (name, held, jobs, rows, fits) in cases {
            assert_eq!(has_room(LIMITS, held, jobs, rows), fits, "{name}");
        }
    }
}
