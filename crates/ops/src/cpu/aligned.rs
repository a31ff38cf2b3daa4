//! Memory that starts on a cache line, so that no vector load of a packed layout crosses one.

use alloc::vec::Vec;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Elements that start on a cache line; zero (or the type's default) until written.
#[derive(Debug, Default)]
pub(crate) struct Aligned<T> {
    elements: Vec<T>,
    start: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `len` elements; `None` when the process has not got the memory.
    pub(crate) fn new(len: usize) -> Option<Self> {
        let slack = LINE_BYTES / size_of::<T>();
        let mut elements = Vec::new();
        elements.try_reserve_exact(len.checked_add(slack)?).ok()?;
        elements.resize(len + slack, T::default());
        // The elements never move again: the vector keeps its length.
        let start = elements.as_ptr().align_offset(LINE_BYTES).min(slack);
        Some(Self { elements, start, len })
    }

    /// Bytes that `len` elements take.
    pub(crate) const fn bytes(len: usize) -> u64 {
        (len * size_of::<T>() + LINE_BYTES) as u64
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        &self.elements[self.start..self.start + self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.elements[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_start_on_a_line() {
        for len in [0, 1, 63, 64, 100_000] {
            let words = Aligned::<i32>::new(len).unwrap();
            assert_eq!(words.as_slice().len(), len);
            assert_eq!(words.as_slice().as_ptr().align_offset(LINE_BYTES), 0);
        }
        assert!(Aligned::<i32>::new(usize::MAX / 8).is_none(), "refused, not aborted");
    }
}
