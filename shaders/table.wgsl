// Rows of a table of codes, for `embed` and `position`: both bind `codes` and `steps`, and have `words` and `halves` in `p`.

/// `sat(rshr(code * B, kw - 16))` of a column; the shift is -14 to 24.
fn dequantized(row: u32, column: u32) -> i32 {
    var code: i32;
    if (p.halves == 1u) {
        let word = codes[row * p.words + column / 2u];
        code = bitcast<i32>(word << (16u - 16u * (column % 2u))) >> 16u;
    } else {
        let word = codes[row * p.words + column / 4u];
        code = bitcast<i32>(word << (24u - 8u * (column % 4u))) >> 24u;
    }
    let step = steps[row];
    return sat64(rshr64(widen(code * i32(step_mantissa(step))), step_exponent(step) - 16));
}
