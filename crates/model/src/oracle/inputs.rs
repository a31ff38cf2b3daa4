//! Inputs of a check, from a file that people write.

use std::{fs, path::Path};

use super::CheckError;
use crate::{Model, Tokenizer, program::Input};

/// Reads inputs, one a line; empty lines are passed over.
///
/// For a model that reads tokens a line is text. For a model that reads rows it is the row's numbers in natural
/// units, separated by commas or spaces; a file that ends in `.i32` is rows of little-endian Q16 instead.
///
/// # Errors
///
/// When the file cannot be read, a line is no input of the model, or text is given without a tokenizer.
pub fn read_inputs(
    path: &Path,
    model: &Model,
    tokenizer: Option<&Tokenizer>,
) -> Result<Vec<Vec<u8>>, CheckError> {
    let read = |source| CheckError::Read { path: path.into(), source };
    let width = match model.program().input() {
        Input::Tokens => return texts(path, tokenizer.ok_or(CheckError::NoTokenizer)?),
        Input::Rows(width) => width as usize,
    };
    if path.extension().is_some_and(|extension| extension == "i32") {
        let bytes = fs::read(path).map_err(read)?;
        return Ok(bytes.chunks(4 * width).map(<[u8]>::to_vec).collect());
    }
    let text = fs::read_to_string(path).map_err(read)?;
    let row = |(line, text): (usize, &str)| {
        row(text, width).map_err(|what| CheckError::Line { path: path.into(), line, what })
    };
    lines(&text).map(row).collect()
}

fn texts(path: &Path, tokenizer: &Tokenizer) -> Result<Vec<Vec<u8>>, CheckError> {
    let text = fs::read_to_string(path)
        .map_err(|source| CheckError::Read { path: path.into(), source })?;
    let ids = |(line, text): (usize, &str)| {
        let ids = tokenizer.encode(text);
        let ids = ids.map_err(|source| CheckError::Text { path: path.into(), line, source })?;
        Ok(ids.iter().flat_map(|id| id.to_le_bytes()).collect())
    };
    lines(&text).map(ids).collect()
}

/// Lines with something in them, numbered from 1.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

/// A line of numbers as a row of Q16.
fn row(text: &str, width: usize) -> Result<Vec<u8>, String> {
    let numbers = text.split([',', ' ', '\t']).filter(|number| !number.is_empty());
    let mut bytes = Vec::with_capacity(4 * width);
    for number in numbers {
        let value: f64 = number.parse().map_err(|_| format!("`{number}` is not a number"))?;
        let q16 = (value * 65_536.0).round();
        if q16.is_nan() || q16.abs() > f64::from(hyperion_primitives::limits::SAT) {
            return Err(format!("{number} is outside the range of Q16, some 16,384 either way"));
        }
        bytes.extend_from_slice(&(q16 as i32).to_le_bytes());
    }
    if bytes.len() != 4 * width {
        return Err(format!("{} numbers, the model reads {width}", bytes.len() / 4));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_numbers_is_a_row_of_q16() {
        let q16 = |numbers: &[i32]| {
            numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()
        };
        let cases = [
            ("commas", "1,-0.5", Ok(q16(&[65_536, -32_768]))),
            ("spaces", " 0.25  2e-5\t", Ok(q16(&[16_384, 1]))),
            ("too few", "1", Err("1 numbers")),
            ("too many", "1 2 3", Err("3 numbers")),
            ("a word", "1 two", Err("`two`")),
            ("out of range", "1 16384", Err("16384 is outside")),
        ];
        for (name, text, want) in cases {
            match (row(text, 2), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{name}"),
                (Err(got), Err(want)) => assert!(got.starts_with(want), "{name}: {got}"),
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
        assert!(row("NaN 1", 2).is_err());
    }
}
