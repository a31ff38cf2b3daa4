//! The byte order of committed weight codes.
//!
//! A row is stored as `code + 128`, and within every 32 bytes the eight 4-byte groups stand in reverse
//! order. The EVM's 256-bit multiply of masked words then yields eight products of a dot product in one
//! top lane (`docs/claims.md`, "w8r"). Byte 0, code -128, is invalid.

/// Bytes that are reordered together; rows are a multiple of it long.
pub const GROUP_BYTES: usize = 32;

/// Turns codes into committed bytes, or committed bytes into their order, in place: the reordering is
/// its own inverse.
fn reorder(row: &mut [u8]) {
    for block in row.chunks_exact_mut(GROUP_BYTES) {
        for group in 0..4 {
            for byte in 0..4 {
                block.swap(4 * group + byte, 4 * (7 - group) + byte);
            }
        }
    }
}

/// Which committed byte of a row holds the row's code `code`.
pub const fn place(code: usize) -> usize {
    let (block, code) = (code / GROUP_BYTES * GROUP_BYTES, code % GROUP_BYTES);
    block + 4 * (7 - code / 4) + code % 4
}

/// Writes the committed bytes of `codes` to `out`.
///
/// # Panics
///
/// When the lengths differ or are no multiple of 32.
pub fn encode(codes: &[i8], out: &mut [u8]) {
    assert_eq!(codes.len(), out.len(), "one byte per code");
    assert_eq!(codes.len() % GROUP_BYTES, 0, "rows are padded to 32 codes");
    for (byte, code) in out.iter_mut().zip(codes) {
        *byte = code.cast_unsigned() ^ 0x80;
    }
    reorder(out);
}

/// Writes the codes behind committed `bytes` to `out`; `Err` with the place of a byte 0.
///
/// # Errors
///
/// When a byte is 0, which would be code -128.
///
/// # Panics
///
/// When the lengths differ or are no multiple of 32.
pub fn decode(bytes: &[u8], out: &mut [i8]) -> Result<(), usize> {
    assert_eq!(bytes.len(), out.len(), "one code per byte");
    assert_eq!(bytes.len() % GROUP_BYTES, 0, "rows are padded to 32 codes");
    if let Some(at) = bytes.iter().position(|byte| *byte == 0) {
        return Err(at);
    }
    for (block, codes) in bytes.chunks_exact(GROUP_BYTES).zip(out.chunks_exact_mut(GROUP_BYTES)) {
        for (i, code) in codes.iter_mut().enumerate() {
            *code = (block[4 * (7 - i / 4) + i % 4] ^ 0x80).cast_signed();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_undoes_encoding_and_zero_is_refused() {
        let codes: [i8; 64] = core::array::from_fn(|i| i8::try_from(i).unwrap() - 30);
        let (mut bytes, mut back) = ([0; 64], [0; 64]);
        encode(&codes, &mut bytes);
        assert_eq!(bytes[28..32], [98, 99, 100, 101], "the first four codes end the block");
        assert_eq!([0, 31, 32, 63].map(|code| bytes[place(code)]), [98, 129, 130, 161]);
        assert_eq!(decode(&bytes, &mut back), Ok(()));
        assert_eq!(back, codes);
        bytes[7] = 0;
        assert_eq!(decode(&bytes, &mut back), Err(7));
    }
}
