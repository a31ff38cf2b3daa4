//! JSON of a source folder: files, and numbers as the exact decimals that they are.

use std::{fs, io::ErrorKind, path::Path};

use serde::de::DeserializeOwned;
use serde_json::Number;

use super::ImportError;

/// A JSON file that has to be there.
pub(super) fn required<T: DeserializeOwned>(path: &Path) -> Result<T, ImportError> {
    optional(path)?.ok_or_else(|| ImportError::Io {
        path: path.to_path_buf(),
        cause: ErrorKind::NotFound.into(),
    })
}

/// A JSON file that may be there.
pub(super) fn optional<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImportError> {
    let path_buf = || path.to_path_buf();
    match fs::read_to_string(path) {
        Ok(text) => match serde_json::from_str(&text) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(ImportError::Format { path: path_buf(), what: error.to_string() }),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(ImportError::Io { path: path_buf(), cause }),
    }
}

/// `floor(ε · 2^32 + 1/2)` of a number from 0 to below 1, from its decimal text.
pub(super) fn eps_q32(number: &Number) -> Option<u32> {
    let (mantissa, exponent) = decimal(number)?;
    // ε below 10^-30 rounds to nothing; a mantissa has 17 digits, so nothing here leaves a u128.
    let divisor = 10_u128.checked_pow(u32::try_from(-exponent).ok()?.min(30))?;
    u32::try_from((mantissa.checked_mul(1 << 33)? + divisor) / (2 * divisor)).ok()
}

/// A non-negative number as a ratio of whole numbers.
pub(super) fn ratio(number: &Number) -> Option<(u64, u64)> {
    let (mut mantissa, mut exponent) = decimal(number)?;
    while exponent < 0 && mantissa > 0 && mantissa.is_multiple_of(10) {
        mantissa /= 10;
        exponent += 1;
    }
    let scale = 10_u128.checked_pow(exponent.unsigned_abs())?;
    let (numerator, denominator) =
        if exponent < 0 { (mantissa, scale) } else { (mantissa.checked_mul(scale)?, 1) };
    Some((u64::try_from(numerator).ok()?, u64::try_from(denominator).ok()?))
}

/// A non-negative whole number, which may be written as `8.0`.
pub(super) fn whole(number: &Number) -> Option<u32> {
    let (numerator, denominator) = ratio(number)?;
    numerator
        .checked_div(denominator)
        .filter(|whole| whole * denominator == numerator)?
        .try_into()
        .ok()
}

/// `mantissa · 10^exponent`, from the number's text; `None` for what is below zero.
fn decimal(number: &Number) -> Option<(u128, i32)> {
    let text = number.to_string();
    let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let mantissa = format!("{whole}{fraction}").parse().ok()?;
    let exponent =
        exponent.parse::<i32>().ok()?.checked_sub(i32::try_from(fraction.len()).ok()?)?;
    Some((mantissa, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn decimals_are_read_exactly() {
        for (text, want) in [
            ("10000.0", Some((10_000, 1))),
            ("1000000", Some((1_000_000, 1))),
            ("5e5", Some((500_000, 1))),
            ("12.50", Some((125, 10))),
            ("0", Some((0, 1))),
            ("-1", None),
            ("1e300", None),
        ] {
            assert_eq!(ratio(&number(text)), want, "{text}");
        }
        assert_eq!(whole(&number("8.0")), Some(8));
        assert_eq!(whole(&number("8.5")), None);
        assert_eq!(eps_q32(&number("1e-5")), Some(42_950));
        assert_eq!(eps_q32(&number("1e-06")), Some(4_295));
        assert_eq!(eps_q32(&number("1.5")), None);
    }
}
