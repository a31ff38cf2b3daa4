// Values softly kept within a cap, for `softcap` and `attention`: both bind `powers`, 2^(-i/256) in Q28.

/// `cap * tanh(x / cap)`; `cap` in Q16 and `inverse` as `Cap` in crates/ops/src/softcap.rs has them.
fn softcapped(x: i32, cap: u32, inverse: u32) -> i32 {
    // Octaves in Q20, below 2^25 as far as they count.
    let octaves = rshr64(mul_u32(u32(abs(x)), inverse), 24);
    let d = select(0x1ffffffu, min(octaves.x, 0x1ffffffu), octaves.y == 0u);
    let index = (d >> 12u) & 255u;
    let low = powers[index];
    var next = 1u << 27u;
    if (index < 255u) {
        next = powers[index + 1u];
    }
    let e = (low - (((low - next) * (d & 4095u) + 2048u) >> 12u)) >> (d >> 20u);
    // floor((2^28 - e) * cap / (2^28 + e)), a bit of the cap at a time; the rest stays below 2^30.
    let part = (1u << 28u) - e;
    let whole = (1u << 28u) + e;
    var rest = 0u;
    var quotient = 0u;
    for (var bit = 25u; bit > 0u; bit--) {
        rest = 2u * rest + select(0u, part, ((cap >> (bit - 1u)) & 1u) == 1u);
        quotient = 2u * quotient;
        for (var i = 0u; i < 2u; i++) {
            if (rest >= whole) {
                rest -= whole;
                quotient++;
            }
        }
    }
    return select(i32(quotient), -i32(quotient), x < 0);
}

/// A score in 1/256 of an octave; the cap is in octaves.
fn capped_score(score: i32, cap: u32, inverse: u32) -> i32 {
    let near = clamp(score, -2097152, 2097152);
    return (softcapped(near * 256, cap, inverse) + 128) >> 8u;
}
