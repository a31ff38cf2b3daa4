//! Source weights to codes: one 8-bit mantissa and one exponent a row, exactly.
//!
//! ```text
//! a    = largest |w| of the row, after its multipliers
//! kw   = the greatest of 2..=25 (i16 codes: 2..=40) with ceil(a · 2^kw / L) <= 255, L = 127 (i16: 32767)
//! kw   = min(kw, low + 15), low = the least kw of all rows
//! B    = max(1, ceil(a · 2^kw / L))
//! code = round(w · 2^kw / B), half away from zero
//! ```
//!
//! Definition: `docs/model-format.md`, "Weights from source bits".

use hyperion_ops::nibbles::{GROUP, SCALE_MAX};
use hyperion_primitives::{limits::padded_depth, w8r};

use crate::{
    program::Codes,
    real::{COLUMN_ONE, ROW_ONE, Real},
};

/// Exponents of rows differ by this much at most, so that one shift serves a whole row of outputs.
const EXPONENT_SPREAD: i32 = 15;
/// The least exponent: weights up to some 8,000 fit.
const EXPONENT_MIN: i32 = 2;

/// Weights that cannot be represented.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WeightError {
    /// Infinite, or no number.
    #[error("row {row}, column {column}: not a finite number")]
    NotFinite {
        /// Row.
        row: usize,
        /// Column.
        column: usize,
    },
    /// A row's largest magnitude is beyond what the format holds.
    #[error("row {row}: a weight is larger than the format holds (some 8,000)")]
    TooLarge {
        /// Row.
        row: usize,
    },
    /// A constant is beyond its limit.
    #[error("element {index}: outside its fixed-point range")]
    OutOfRange {
        /// Which.
        index: usize,
    },
}

/// A matrix of source weights with its multipliers.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// The source's value at (row, column); `None` when it is not finite.
    pub value: &'a dyn Fn(usize, usize) -> Option<Real>,
    /// Q30 multiplier of each row; `None`: one.
    pub row_q30: Option<&'a dyn Fn(usize) -> u32>,
    /// Q14 multiplier of each column; `None`: one.
    pub column_q14: Option<&'a [u32]>,
}

impl std::fmt::Debug for Matrix<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matrix")
            .field("rows", &self.rows)
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl<'a> Matrix<'a> {
    /// A matrix whose multipliers are one.
    pub fn new(
        rows: usize,
        columns: usize,
        value: &'a dyn Fn(usize, usize) -> Option<Real>,
    ) -> Self {
        Self { rows, columns, value, row_q30: None, column_q14: None }
    }

    /// Multiplier of a row.
    fn row(&self, row: usize) -> u32 {
        self.row_q30.map_or(ROW_ONE, |of| of(row))
    }

    fn scaled(&self, row: usize, multiplier: u32, column: usize) -> Result<Real, WeightError> {
        let value = (self.value)(row, column).ok_or(WeightError::NotFinite { row, column })?;
        Ok(value.scaled(multiplier, self.column_q14.map_or(COLUMN_ONE, |columns| columns[column])))
    }
}

/// Codes of a matrix, in the bytes that the model file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantized {
    /// w8r rows padded to 32 codes, or little-endian i16.
    pub codes: Vec<u8>,
    /// `B` of each row.
    pub mantissas: Vec<u8>,
    /// `kw` of each row.
    pub exponents: Vec<i8>,
}

impl Quantized {
    /// A matrix of exactly these codes; the step of every row is `128 · 2^-exponent`.
    pub(crate) fn exact(rows: &[Vec<i8>], exponent: i8) -> Self {
        let mut codes = Vec::new();
        for row in rows {
            let mut line = vec![0; w8r_depth(row.len())];
            line.iter_mut().zip(row).for_each(|(to, from)| *to = (*from).into());
            append(&line, Codes::W8r, &mut codes);
        }
        Self { codes, mantissas: vec![128; rows.len()], exponents: vec![exponent; rows.len()] }
    }

    /// A square matrix that takes for each row one column, times exactly one: `64 · 128 / 2^13`.
    pub(crate) fn choice(columns: &[usize]) -> Self {
        let depth = w8r_depth(columns.len());
        let mut codes = Vec::new();
        for column in columns {
            let mut line = vec![0; depth];
            line[*column] = 64;
            append(&line, Codes::W8r, &mut codes);
        }
        Self { codes, mantissas: vec![128; columns.len()], exponents: vec![13; columns.len()] }
    }
}

fn w8r_depth(columns: usize) -> usize {
    padded_depth(u32::try_from(columns).expect("a width is checked before")) as usize
}

/// Quantizes a matrix.
///
/// # Errors
///
/// When a weight is not finite or too large.
pub fn quantize(matrix: &Matrix<'_>, codes: Codes) -> Result<Quantized, WeightError> {
    let (limit, exponent_max) = match codes {
        Codes::W8r => (127, 25),
        Codes::I16 => (32_767, 40),
    };
    let depth = match codes {
        Codes::W8r => w8r_depth(matrix.columns),
        Codes::I16 => matrix.columns,
    };
    let mut bytes = Vec::new();
    let digits = Digits { limit, exponent_max, more: 0 };
    let (mantissas, exponents) =
        lines(matrix, depth, digits, &mut |line| append(line, codes, &mut bytes))?;
    Ok(Quantized { codes: bytes, mantissas, exponents })
}

/// What the codes of a matrix are.
#[derive(Clone, Copy)]
struct Digits {
    /// Greatest magnitude of a code.
    limit: u128,
    /// Greatest exponent of a row.
    exponent_max: i32,
    /// Binary digits of a code beyond whole steps.
    more: i32,
}

/// Hands the codes of each row, `depth` of them, to `put`; `B` and `kw` of the rows.
fn lines(
    matrix: &Matrix<'_>,
    depth: usize,
    Digits { limit, exponent_max, more }: Digits,
    put: &mut dyn FnMut(&[i16]),
) -> Result<(Vec<u8>, Vec<i8>), WeightError> {
    let mut peaks = Vec::with_capacity(matrix.rows);
    for row in 0..matrix.rows {
        let multiplier = matrix.row(row);
        let mut peak = Real::default();
        for column in 0..matrix.columns {
            let value = matrix.scaled(row, multiplier, column)?;
            if value.exceeds(peak) {
                peak = value;
            }
        }
        let exponent = (EXPONENT_MIN..=exponent_max).rev().find(|kw| fits(peak, *kw, 255 * limit));
        peaks.push((peak, exponent.ok_or(WeightError::TooLarge { row })?));
    }
    let low = peaks.iter().map(|(_, exponent)| *exponent).min().unwrap_or(exponent_max);
    let (mut mantissas, mut exponents) = (Vec::new(), Vec::new());
    let mut line = vec![0_i16; depth];
    for (row, (peak, exponent)) in peaks.into_iter().enumerate() {
        let exponent = exponent.min(low + EXPONENT_SPREAD);
        let step = step(peak, exponent, limit);
        let multiplier = matrix.row(row);
        for (column, place) in line.iter_mut().take(matrix.columns).enumerate() {
            *place = code(matrix.scaled(row, multiplier, column)?, exponent + more, step);
        }
        mantissas.push(step);
        exponents.push(i8::try_from(exponent).expect("2 to 40"));
        put(&line);
    }
    Ok((mantissas, exponents))
}

/// Binary digits of a code of 15 bits that its second code of eight holds.
const FINE_DIGITS: i32 = 7;

/// Quantizes a matrix to two matrices of 8-bit codes whose sum it is: `u = round(w · 2^(kw + 7) / B)` within ±16,256, the first has
/// `floor((u + 64) / 128)` at the exponent `kw`, the second `u` less 128 times that, -64 to 63, at `kw + 7`.
///
/// # Errors
///
/// As for [`quantize`].
pub fn quantize_planes(matrix: &Matrix<'_>) -> Result<[Quantized; 2], WeightError> {
    let digits = Digits { limit: 127, exponent_max: 25 - FINE_DIGITS, more: FINE_DIGITS };
    let (mut coarse, mut fine) = (Vec::new(), Vec::new());
    let (mantissas, exponents) = lines(matrix, w8r_depth(matrix.columns), digits, &mut |line| {
        let high: Vec<i16> = line.iter().map(|u| (u + 64) >> FINE_DIGITS).collect();
        let low: Vec<i16> = line.iter().zip(&high).map(|(u, high)| u - (high << 7)).collect();
        append(&high, Codes::W8r, &mut coarse);
        append(&low, Codes::W8r, &mut fine);
    })?;
    let finer = exponents.iter().map(|kw| kw + FINE_DIGITS as i8).collect();
    Ok([
        Quantized { codes: coarse, mantissas: mantissas.clone(), exponents },
        Quantized { codes: fine, mantissas, exponents: finer },
    ])
}

/// Codes of four bits in groups, in the bytes that the model file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Narrow {
    /// Halves of rows padded to 32 codes.
    pub halves: Vec<u8>,
    /// Scale of each group.
    pub groups: Vec<u8>,
    /// `B` of each row.
    pub mantissas: Vec<u8>,
    /// `kw` of each row.
    pub exponents: Vec<i8>,
}

/// Quantizes a matrix to four bits in groups of 32 with a whole scale each.
///
/// The step of a row is that of codes within 119. In units of its 64th part a group's numbers are `u_i`; of the scales s from half
/// of the least that holds all of them up to that one, the group has the one whose `sum (u_i - 64·s·w_i)^2` is least, the least
/// of equals, with `w_i = round(u_i / (64·s))` within ±7, half away from zero.
///
/// # Errors
///
/// As for [`quantize`].
pub fn quantize_narrow(matrix: &Matrix<'_>) -> Result<Narrow, WeightError> {
    let digits = Digits { limit: NARROW_LIMIT, exponent_max: 25, more: 6 };
    let (mut halves, mut groups) = (Vec::new(), Vec::new());
    let (mantissas, exponents) = lines(matrix, w8r_depth(matrix.columns), digits, &mut |line| {
        for group in line.as_chunks::<GROUP>().0 {
            let (scale, codes) = narrowed(group);
            groups.push(scale);
            let (low, high) = codes.split_at(GROUP / 2);
            halves.extend(low.iter().zip(high).map(|(low, high)| (low + 8) | (high + 8) << 4));
        }
    })?;
    let halves = halves.into_iter().map(i8::cast_unsigned).collect();
    Ok(Narrow { halves, groups, mantissas, exponents })
}

/// Greatest magnitude of a code of four bits.
const HALF_MAX: i32 = 7;
/// That times the greatest scale.
const NARROW_LIMIT: u128 = HALF_MAX as u128 * SCALE_MAX as u128;

/// The scale and the codes of a group, whose numbers are in units of a 64th of a step.
fn narrowed(group: &[i16; GROUP]) -> (u8, [i8; GROUP]) {
    let peak = group.iter().map(|u| i32::from(u.unsigned_abs())).max().unwrap_or(0);
    let most = (peak + 64 * HALF_MAX - 1) / (64 * HALF_MAX);
    // A peak that was rounded up may lie a little beyond the limit.
    let most = most.clamp(1, i32::from(SCALE_MAX));
    let code = |u: i16, unit: i32| {
        let magnitude = (2 * i32::from(u.unsigned_abs()) + unit) / (2 * unit);
        magnitude.min(HALF_MAX) * i32::from(u.signum())
    };
    let error = |scale: &i32| -> i64 {
        let unit = 64 * scale;
        let off = |u: &i16| i64::from(i32::from(*u) - unit * code(*u, unit)).pow(2);
        group.iter().map(off).sum()
    };
    let scale = (most.div_euclid(2).max(1)..=most).min_by_key(error).unwrap_or(most);
    let codes = group.map(|u| i8::try_from(code(u, 64 * scale)).expect("within 7"));
    (u8::try_from(scale).expect("17 at most"), codes)
}

fn append(line: &[i16], codes: Codes, out: &mut Vec<u8>) {
    match codes {
        Codes::I16 => line.iter().for_each(|code| out.extend_from_slice(&code.to_le_bytes())),
        Codes::W8r => {
            let narrow: Vec<i8> =
                line.iter().map(|code| i8::try_from(*code).expect("within 127")).collect();
            let start = out.len();
            out.resize(start + narrow.len(), 0);
            w8r::encode(&narrow, &mut out[start..]);
        }
    }
}

/// Whether `|value| · 2^kw <= bound`.
fn fits(value: Real, kw: i32, bound: u128) -> bool {
    let shift = value.exponent + kw;
    match u32::try_from(shift) {
        // `bound` has 23 bits at most, so a shift by 24 is too far for any mantissa but zero.
        Ok(shift) => {
            value.mantissa == 0
                || (shift < 24 && value.mantissa <= bound && value.mantissa << shift <= bound)
        }
        Err(_) => {
            let shift = shift.unsigned_abs();
            shift >= 104 || value.mantissa <= bound << shift
        }
    }
}

/// `max(1, ceil(|peak| · 2^kw / limit))`; at most 255.
fn step(peak: Real, kw: i32, limit: u128) -> u8 {
    let shift = peak.exponent + kw;
    let step = match u32::try_from(shift) {
        Ok(shift) => (peak.mantissa << shift.min(24)).div_ceil(limit),
        Err(_) if shift < -100 => 1,
        Err(_) => peak.mantissa.div_ceil(limit << shift.unsigned_abs()),
    };
    u8::try_from(step.max(1)).expect("the exponent was chosen so that the step fits")
}

/// `round(value · 2^kw / step)`, half away from zero.
fn code(value: Real, kw: i32, step: u8) -> i16 {
    let shift = value.exponent + kw;
    let (numerator, denominator) = match u32::try_from(shift) {
        Ok(shift) => (value.mantissa << shift.min(24), u128::from(step)),
        Err(_) if shift < -100 => return 0,
        Err(_) => (value.mantissa, u128::from(step) << shift.unsigned_abs()),
    };
    let (twice, divisor) = (2 * numerator + denominator, 2 * denominator);
    // Most weights fit the machine's own division.
    let magnitude = match (u64::try_from(twice), u64::try_from(divisor)) {
        (Ok(twice), Ok(divisor)) => (twice / divisor).into(),
        _ => twice / divisor,
    };
    let magnitude = i16::try_from(magnitude).expect("the step was chosen so that codes fit");
    if value.is_negative { -magnitude } else { magnitude }
}

/// Constants in fixed point, such as biases; see [`Real::fixed`].
///
/// # Errors
///
/// When a value is not finite, or beyond `limit`.
pub fn fixed(
    values: impl IntoIterator<Item = Option<Real>>,
    fraction_bits: u32,
    limit: i32,
) -> Result<Vec<i32>, WeightError> {
    let fix = |(index, value): (usize, Option<Real>)| {
        let value = value.ok_or(WeightError::NotFinite { row: 0, column: index })?;
        value.fixed(fraction_bits, limit).ok_or(WeightError::OutOfRange { index })
    };
    values.into_iter().enumerate().map(fix).collect()
}
