//! Who waits, and who may.
//!
//! One line per class, first come, first served. A key is the order of arrival, so a job that lost its device
//! goes back to where it was: to the front.

use std::collections::{BTreeMap, BTreeSet};

use crate::{Class, KeyId};

/// Name of a job inside the engine, in order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobKey(pub u64);

/// Whether one more job of an owner may wait in a line.
///
/// While others wait an owner holds at most half of the line; alone it may fill all but an eighth, so that a
/// newcomer finds room.
///
/// | argument | meaning |
/// |---|---|
/// | `limit` | jobs that may wait in the line |
/// | `waiting`, `own` | jobs that do, of all owners and of this one |
pub const fn may_wait(limit: usize, waiting: usize, own: usize) -> bool {
    let alone = waiting == own;
    waiting < limit && (own < limit.div_ceil(2) || alone && own < limit - limit / 8)
}

/// Jobs of one model that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue([Line; 3]);

impl Queue {
    pub(crate) const fn line(&self, class: Class) -> &Line {
        &self.0[class as usize]
    }

    pub(crate) const fn line_mut(&mut self, class: Class) -> &mut Line {
        &mut self.0[class as usize]
    }

    /// Every job, class by class.
    pub(crate) fn keys(&self) -> impl Iterator<Item = JobKey> {
        self.0.iter().flat_map(Line::keys)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(Line::len).sum()
    }

    pub(crate) fn rows(&self) -> u64 {
        self.0.iter().map(Line::rows).sum()
    }
}

/// Jobs of one class, in order of arrival.
#[derive(Debug, Default)]
pub(crate) struct Line {
    jobs: BTreeSet<JobKey>,
    rows: u64,
    held: BTreeMap<Option<KeyId>, usize>,
}

impl Line {
    pub(crate) fn keys(&self) -> impl Iterator<Item = JobKey> {
        self.jobs.iter().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) const fn rows(&self) -> u64 {
        self.rows
    }

    /// Jobs of one owner.
    pub(crate) fn held(&self, owner: &Option<KeyId>) -> usize {
        self.held.get(owner).copied().unwrap_or(0)
    }

    pub(crate) fn insert(&mut self, key: JobKey, rows: u32, owner: &Option<KeyId>) {
        self.jobs.insert(key);
        self.rows += u64::from(rows);
        *self.held.entry(owner.clone()).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, key: JobKey, rows: u32, owner: &Option<KeyId>) {
        assert!(self.jobs.remove(&key), "a queued job stands in its line");
        self.rows -= u64::from(rows);
        let held = self.held.get_mut(owner).expect("an owner with a job in the line is counted");
        *held -= 1;
        if *held == 0 {
            self.held.remove(owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_leaves_room_for_others() {
        let cases = [
            ("an empty line", 16, 0, 0, true),
            ("alone, at half", 16, 8, 8, true),
            ("alone, up to the reserve", 16, 13, 13, true),
            ("alone, into the reserve", 16, 14, 14, false),
            ("a newcomer takes from the reserve", 16, 14, 0, true),
            ("in company, below half", 16, 9, 7, true),
            ("in company, at half", 16, 9, 8, false),
            ("no room for anybody", 16, 16, 0, false),
            ("a line of one", 1, 0, 0, true),
            ("a full line of one", 1, 1, 1, false),
            ("an odd line, in company", 3, 2, 1, true),
        ];
        for (name, limit, waiting, own, may) in cases {
            assert_eq!(may_wait(limit, waiting, own), may, "{name}");
        }
    }

    #[test]
    fn a_line_counts_what_stands_in_it() {
        let (mut line, ann, ben) = (Line::default(), Some(KeyId::from("ann")), None);
        line.insert(JobKey(2), 5, &ann);
        line.insert(JobKey(1), 7, &ben);
        assert_eq!(line.keys().collect::<Vec<_>>(), [JobKey(1), JobKey(2)]);
        assert_eq!((line.rows(), line.held(&ann), line.held(&ben)), (12, 1, 1));
        line.remove(JobKey(2), 5, &ann);
        assert_eq!((line.len(), line.rows(), line.held(&ann)), (1, 7, 0));
    }
}
