//! `cargo xtask tables [--check]`: the five tables of `crates/ops/tables/`, computed anew.
//!
//! Each entry is a real number correctly rounded, half up. Reals are integers of 256 fraction bits, and a value
//! within `2^-160` of a rounding boundary stops the task, so any correct method gives the same bytes.

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use num_bigint::BigInt;

/// Write, or compare.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compares with the files instead of writing them.
    #[arg(long)]
    check: bool,
}

/// Computes every table and writes it, or compares it with its file.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = crate::root().join("crates/ops/tables");
    let reals = Reals::new();
    let mut different = Vec::new();
    for (name, bytes) in [
        ("exp2", words(reals.exp2()?)?),
        ("gelu", halves(reals.gelu()?)?),
        ("gelu_tanh", halves(reals.gelu_tanh()?)?),
        ("silu", halves(reals.silu()?)?),
        ("sin", halves(reals.sin()?)?),
    ] {
        let path = folder.join(format!("{name}.bin"));
        if !arguments.check {
            fs::write(&path, &bytes).with_context(|| format!("writing {}", path.display()))?;
        } else if fs::read(&path).with_context(|| format!("reading {}", path.display()))? != bytes {
            different.push(name);
        }
    }
    if !different.is_empty() {
        bail!("tables: {} differ from what `cargo xtask tables` computes", different.join(", "));
    }
    println!("tables: {}", if arguments.check { "all five are as computed" } else { "written" });
    Ok(())
}

/// Fraction bits of a real.
const FRACTION: u32 = 256;

/// Reals as integers of 256 fraction bits, none negative.
struct Reals {
    one: BigInt,
    pi: BigInt,
    ln2: BigInt,
}

impl Reals {
    fn new() -> Self {
        let one = BigInt::from(1) << FRACTION;
        // Machin's formula, and ln 2 = 2 atanh(1/3).
        let pi = 4 * (4 * inverse_series(&one, 5, -1) - inverse_series(&one, 239, -1));
        let ln2 = 2 * inverse_series(&one, 3, 1);
        Self { one, pi, ln2 }
    }

    /// `2^28 * 2^(-i / 256)`.
    fn exp2(&self) -> Result<Vec<BigInt>> {
        (0..256)
            .map(|i| self.round(&self.div(&self.one, &self.exp(&(&self.ln2 * i / 256))), 28))
            .collect()
    }

    /// `2^16 * x/2 * erfc(x / sqrt 2)` at `x = i / 256`.
    fn gelu(&self) -> Result<Vec<BigInt>> {
        let root = (BigInt::from(2) << (2 * FRACTION)).sqrt();
        let at = |x: BigInt| self.mul(&x, &self.erfc(&self.div(&x, &root))) / 2;
        (0..2048).map(|i| self.round(&at(self.step(i)), 16)).collect()
    }

    /// `2^16 * x / (1 + exp(2 sqrt(2 / pi) (x + 0.044715 x^3)))` at `x = i / 256`.
    fn gelu_tanh(&self) -> Result<Vec<BigInt>> {
        let two_over_pi = self.div(&(2 * &self.one), &self.pi);
        let slope: BigInt = 2 * (two_over_pi << FRACTION).sqrt();
        let at = |x: BigInt| {
            let cube = self.mul(&self.mul(&x, &x), &x) * 44_715 / 1_000_000;
            let tail = self.exp(&self.mul(&slope, &(&x + cube)));
            self.div(&x, &(&self.one + tail))
        };
        (0..2048).map(|i| self.round(&at(self.step(i)), 16)).collect()
    }

    /// `2^16 * x / (1 + e^x)` at `x = i / 256`.
    fn silu(&self) -> Result<Vec<BigInt>> {
        let at = |x: BigInt| self.div(&x, &(&self.one + self.exp(&x)));
        (0..4096).map(|i| self.round(&at(self.step(i)), 16)).collect()
    }

    /// `2^14 * sin(pi/2 * i / 2^14)`, both ends of the quarter included.
    fn sin(&self) -> Result<Vec<BigInt>> {
        (0..=1 << 14).map(|i| self.round(&self.sine(&((&self.pi * i) >> 15)), 14)).collect()
    }

    /// `i / 256`.
    fn step(&self, i: u32) -> BigInt {
        &self.one * i / 256
    }

    fn mul(&self, a: &BigInt, b: &BigInt) -> BigInt {
        (a * b) >> FRACTION
    }

    fn div(&self, a: &BigInt, b: &BigInt) -> BigInt {
        (a << FRACTION) / b
    }

    /// `e^x`: octaves, and the Taylor series of the rest.
    fn exp(&self, x: &BigInt) -> BigInt {
        let octaves = u32::try_from(x / &self.ln2).expect("no table goes beyond e^60");
        let rest = x % &self.ln2;
        let (mut term, mut sum, mut n) = (self.one.clone(), self.one.clone(), 1);
        while term > BigInt::ZERO {
            term = self.mul(&term, &rest) / n;
            sum += &term;
            n += 1;
        }
        sum << octaves
    }

    /// `1 - erf(z)`, from the series of erf whose terms are all positive:
    /// `2/sqrt(pi) * e^(-z^2) * (z + 2 z^3 / 3 + 4 z^5 / 15 + …)`.
    fn erfc(&self, z: &BigInt) -> BigInt {
        let square = self.mul(z, z);
        let (mut term, mut sum, mut n) = (z.clone(), z.clone(), 3);
        while term > BigInt::ZERO {
            term = self.mul(&term, &(2 * &square)) / n;
            sum += &term;
            n += 2;
        }
        let scale = self.div(&(2 * &self.one), &(&self.pi << FRACTION).sqrt());
        &self.one - self.div(&self.mul(&scale, &sum), &self.exp(&square))
    }

    /// `sin x`, by its Taylor series.
    fn sine(&self, x: &BigInt) -> BigInt {
        let square = self.mul(x, x);
        let (mut term, mut sum, mut n) = (x.clone(), x.clone(), 2_u32);
        while term != BigInt::ZERO {
            // Division truncates, so the alternating terms reach zero.
            term = &term * &square / (n * (n + 1)) / -&self.one;
            sum += &term;
            n += 2;
        }
        sum
    }

    /// `value * 2^bits`, half up; an error when it is too close to call.
    fn round(&self, value: &BigInt, bits: u32) -> Result<BigInt> {
        let scaled = value << bits;
        let half: BigInt = &self.one / 2;
        let fraction = &scaled % &self.one;
        let margin: BigInt = if fraction > half { &fraction - &half } else { &half - &fraction };
        ensure!(margin > &self.one >> 160, "the value {value} is too close to a rounding boundary");
        Ok((scaled + half) >> FRACTION)
    }
}

/// `1/x + sign / 3x^3 + 1 / 5x^5 + …`: atan for -1, atanh for 1.
fn inverse_series(one: &BigInt, x: u32, sign: i32) -> BigInt {
    let mut power = one / x;
    let (mut sum, mut n, mut factor) = (BigInt::ZERO, 1, 1);
    while power > BigInt::ZERO {
        sum += factor * (&power / n);
        power /= x * x;
        n += 2;
        factor *= sign;
    }
    sum
}

fn words(entries: Vec<BigInt>) -> Result<Vec<u8>> {
    let words = entries.into_iter().map(u32::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(words.into_iter().flat_map(u32::to_le_bytes).collect())
}

fn halves(entries: Vec<BigInt>) -> Result<Vec<u8>> {
    let halves = entries.into_iter().map(u16::try_from).collect::<Result<Vec<_>, _>>()?;
    Ok(halves.into_iter().flat_map(u16::to_le_bytes).collect())
}
