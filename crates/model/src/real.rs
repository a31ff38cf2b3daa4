//! The exact value of a source weight.
//!
//! A float is read as sign, mantissa and exponent, never as a float, so that two converters on two machines cannot
//! round differently (`docs/model-format.md`, "Conversion").

/// `±mantissa · 2^exponent`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Real {
    /// Whether the value is below zero; zero itself has no sign.
    pub is_negative: bool,
    /// Below 2^66 for what this module makes, below 2^121 after [`scaled`](Self::scaled).
    pub mantissa: u128,
    /// The exponent of the mantissa's lowest bit.
    pub exponent: i32,
}

/// How a source stores its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// The upper half of binary32.
    Bf16,
}

impl Format {
    /// Bytes of a number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// The number in the first bytes of `little_endian`; `None` when it is infinite or no number.
    ///
    /// # Panics
    ///
    /// When there are fewer bytes than a number has.
    pub fn read(self, little_endian: &[u8]) -> Option<Real> {
        let half = || u16::from_le_bytes([little_endian[0], little_endian[1]]);
        match self {
            Self::F32 => {
                let bytes = little_endian.first_chunk().expect("a binary32 has four bytes");
                Real::from_bits(u32::from_le_bytes(*bytes), 8, 23)
            }
            Self::F16 => Real::from_bits(half().into(), 5, 10),
            Self::Bf16 => Real::from_bits(u32::from(half()) << 16, 8, 23),
        }
    }
}

impl Real {
    /// One.
    pub const ONE: Self = Self { is_negative: false, mantissa: 1, exponent: 0 };

    /// A binary interchange format with this many bits of exponent and fraction.
    fn from_bits(bits: u32, exponent_bits: u32, fraction_bits: u32) -> Option<Self> {
        let fraction = bits & ((1 << fraction_bits) - 1);
        let biased = (bits >> fraction_bits) & ((1 << exponent_bits) - 1);
        if biased == (1 << exponent_bits) - 1 {
            return None;
        }
        let bias = (1 << (exponent_bits - 1)) - 1;
        // Below the smallest normal number the exponent stands still and the hidden bit is gone.
        let mantissa = if biased == 0 { fraction } else { fraction | (1 << fraction_bits) };
        let exponent = i32::try_from(biased.max(1)).expect("at most 255")
            - bias
            - i32::try_from(fraction_bits).expect("at most 23");
        let is_negative = mantissa != 0 && bits >> (exponent_bits + fraction_bits) == 1;
        Some(Self { is_negative, mantissa: mantissa.into(), exponent })
    }

    /// The value times `row / 2^30 · column / 2^14`, exactly.
    ///
    /// `row` is below 2^31 and `column` at most 2^24, so a 24-bit mantissa stays below 2^79.
    #[must_use]
    pub fn scaled(self, row_q30: u32, column_q14: u32) -> Self {
        if row_q30 == ROW_ONE && column_q14 == COLUMN_ONE {
            return self;
        }
        let mantissa = self.mantissa * u128::from(row_q30) * u128::from(column_q14);
        Self { mantissa, exponent: self.exponent - 44, ..self }
    }

    /// The value times a small whole number, exactly.
    #[must_use]
    pub fn times(self, factor: i16) -> Self {
        let mantissa = self.mantissa * u128::from(factor.unsigned_abs());
        let is_negative = mantissa != 0 && self.is_negative != (factor < 0);
        Self { is_negative, mantissa, ..self }
    }

    /// The value times `2^shift`, exactly.
    #[must_use]
    pub const fn shifted(self, shift: i32) -> Self {
        Self { exponent: self.exponent + shift, ..self }
    }

    /// The product of two values, exactly; mantissas are below 2^60.
    #[must_use]
    pub fn product(self, other: Self) -> Self {
        let mantissa = self.mantissa * other.mantissa;
        let is_negative = mantissa != 0 && self.is_negative != other.is_negative;
        Self { is_negative, mantissa, exponent: self.exponent + other.exponent }
    }

    /// The sum of two values. Where one is more than 2^40 times finer than the other it counts as zero, which bounds
    /// the mantissa by 2^66 and is part of the definition.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let (coarse, fine) =
            if self.exponent >= other.exponent { (self, other) } else { (other, self) };
        let gap = coarse.exponent.abs_diff(fine.exponent);
        if coarse.mantissa == 0 {
            return fine;
        }
        if gap > 40 || fine.mantissa == 0 {
            return coarse;
        }
        let signed = |real: Self, shift: u32| {
            let magnitude = i128::try_from(real.mantissa << shift).expect("below 2^66");
            if real.is_negative { -magnitude } else { magnitude }
        };
        let sum = signed(coarse, gap) + signed(fine, 0);
        Self { is_negative: sum < 0, mantissa: sum.unsigned_abs(), exponent: fine.exponent }
    }

    /// Whether this magnitude is greater than another's.
    pub fn exceeds(self, other: Self) -> bool {
        if self.mantissa == 0 || other.mantissa == 0 {
            return self.mantissa != 0;
        }
        let top =
            |real: Self| i64::from(real.exponent) + i64::from(128 - real.mantissa.leading_zeros());
        match top(self).cmp(&top(other)) {
            std::cmp::Ordering::Equal => {
                // Equal highest bits: aligned to the top of the word, the mantissas compare as they are.
                let aligned = |real: Self| real.mantissa << real.mantissa.leading_zeros();
                aligned(self) > aligned(other)
            }
            order => order.is_gt(),
        }
    }

    /// The value in fixed point, `round(value · 2^fraction_bits)`, half towards plus infinity; `None` beyond `limit`.
    pub fn fixed(self, fraction_bits: u32, limit: i32) -> Option<i32> {
        let shift = -(i64::from(self.exponent) + i64::from(fraction_bits));
        let magnitude = i128::try_from(self.mantissa).ok()?;
        let signed = if self.is_negative { -magnitude } else { magnitude };
        let rounded = if signed == 0 || shift > 126 {
            0
        } else if shift > 0 {
            (signed + (1 << (shift - 1))) >> shift
        } else {
            let shift = u32::try_from(-shift).ok()?;
            if shift > signed.unsigned_abs().leading_zeros().saturating_sub(1) {
                return None;
            }
            signed << shift
        };
        i32::try_from(rounded).ok().filter(|value| value.unsigned_abs() <= limit.unsigned_abs())
    }
}

/// A row multiplier of one.
pub const ROW_ONE: u32 = 1 << 30;
/// A column multiplier of one.
pub const COLUMN_ONE: u32 = 1 << 14;
