//! Who holds which page of a cache.

/// Pages of a cache: free, or held by some contexts.
#[derive(Debug)]
pub(super) struct Pages {
    /// Contexts that hold each page.
    holders: Vec<u32>,
    free: Vec<u32>,
}

impl Pages {
    /// So many pages, all free.
    pub(super) fn new(count: u32) -> Self {
        Self { holders: vec![0; count as usize], free: (0..count).rev().collect() }
    }

    /// Pages that nobody holds.
    pub(super) fn free(&self) -> usize {
        self.free.len()
    }

    /// Takes a free page.
    pub(super) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// Counts one more holder of a page.
    pub(super) fn share(&mut self, page: u32) {
        self.holders[page as usize] += 1;
    }

    /// Counts one holder less; a page of none is free.
    pub(super) fn give(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("a page is given back by its holders only");
        if *holders == 0 {
            self.free.push(page);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_free_when_its_last_holder_gives_it_back() {
        let mut pages = Pages::new(2);
        let first = pages.take().unwrap();
        pages.share(first);
        pages.take().unwrap();
        assert_eq!(pages.take(), None);
        pages.give(first);
        assert_eq!(pages.free(), 0);
        pages.give(first);
        assert_eq!(pages.take(), Some(first));
    }
}
