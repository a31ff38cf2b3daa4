//! Buffers as words: every activation is an `i32`, and bytes of other types are taken out of words.

/// Copies bytes from byte `at` on.
pub(super) fn read_bytes(words: &[i32], at: usize, bytes: &mut [u8]) {
    let (head, rest) = bytes.split_at_mut(to_boundary(at, bytes.len()));
    for (i, byte) in head.iter_mut().enumerate() {
        *byte = words[(at + i) / 4].to_le_bytes()[(at + i) % 4];
    }
    let start = (at + head.len()) / 4;
    let (whole, tail) = rest.as_chunks_mut::<4>();
    for (bytes, word) in whole.iter_mut().zip(&words[start..]) {
        *bytes = word.to_le_bytes();
    }
    let end = start + whole.len();
    if let Some(word) = words.get(end) {
        tail.copy_from_slice(&word.to_le_bytes()[..tail.len()]);
    }
}

/// Writes bytes from byte `at` on.
pub(super) fn write_bytes(words: &mut [i32], at: usize, bytes: &[u8]) {
    let mut set = |at: usize, byte: u8| {
        let mut word = words[at / 4].to_le_bytes();
        word[at % 4] = byte;
        words[at / 4] = i32::from_le_bytes(word);
    };
    let (head, rest) = bytes.split_at(to_boundary(at, bytes.len()));
    head.iter().enumerate().for_each(|(i, byte)| set(at + i, *byte));
    let (whole, tail) = rest.as_chunks::<4>();
    let start = at + head.len();
    let end = start + 4 * whole.len();
    tail.iter().enumerate().for_each(|(i, byte)| set(end + i, *byte));
    for (word, bytes) in words[start / 4..].iter_mut().zip(whole) {
        *word = i32::from_le_bytes(*bytes);
    }
}

/// Bytes from `at` to the next word, `len` at most.
fn to_boundary(at: usize, len: usize) -> usize {
    (at.next_multiple_of(4) - at).min(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_place_and_length_reads_back_and_leaves_the_rest() {
        for at in 0..9 {
            for len in 0..14 {
                let mut words = [0x5a5a_5a5a; 6];
                let bytes: Vec<u8> = (1..=len).collect();
                write_bytes(&mut words, at, &bytes);
                let mut all = [0; 24];
                read_bytes(&words, 0, &mut all);
                let mut want = [0x5a; 24];
                want[at..at + bytes.len()].copy_from_slice(&bytes);
                assert_eq!(all, want, "{len} bytes at {at}");
                let mut back = vec![0; bytes.len()];
                read_bytes(&words, at, &mut back);
                assert_eq!(back, bytes);
            }
        }
    }
}
