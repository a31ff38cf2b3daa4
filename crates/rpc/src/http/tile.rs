//! Names of tiles (C2SP `tlog-tiles`).

use std::str::FromStr;

/// Hashes of a level, or entries, `256 n` to `256 n + width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    /// `None`: entries.
    pub(super) level: Option<u8>,
    pub(super) n: u64,
    /// 1 to 256.
    pub(super) width: u16,
}

/// The highest level that a tree of 2^64 entries has.
const LEVEL_MAX: u8 = 7;

impl FromStr for Tile {
    type Err = ();

    /// `<level>/<n>[.p/<width>]`, the level `entries` or a number, `n` in groups of three digits, all but the last
    /// behind an `x`.
    fn from_str(path: &str) -> Result<Self, ()> {
        let (level, rest) = path.split_once('/').ok_or(())?;
        let level = match level {
            "entries" => None,
            level => Some(number(level).filter(|level| *level <= u64::from(LEVEL_MAX)).ok_or(())?),
        };
        let (n, width) = match rest.split_once(".p/") {
            None => (rest, 256),
            Some((n, width)) => {
                (n, number(width).filter(|width| (1..256).contains(width)).ok_or(())?)
            }
        };
        Ok(Self {
            level: level.map(|level| u8::try_from(level).expect("at most 7")),
            n: groups(n).ok_or(())?,
            width: u16::try_from(width).expect("at most 256"),
        })
    }
}

/// A number without leading zeros.
fn number(text: &str) -> Option<u64> {
    crate::plain::decimal_of(text)
}

/// `x001/x234/067` → 1234067. The first group is not all zeros unless it is the last.
fn groups(text: &str) -> Option<u64> {
    let mut n = 0_u64;
    let mut groups = text.split('/').peekable();
    let mut first = true;
    while let Some(group) = groups.next() {
        let last = groups.peek().is_none();
        let digits = if last { group } else { group.strip_prefix('x')? };
        if digits.len() != 3 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
            return None;
        }
        if first && !last && digits == "000" {
            return None;
        }
        n = n.checked_mul(1000)?.checked_add(digits.parse().ok()?)?;
        first = false;
    }
    // 256 n + 255 is the index of an entry.
    (n <= u64::MAX >> 8).then_some(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tile_has_one_name() {
        let tile = |level, n, width| Ok(Tile { level, n, width });
        let cases = [
            ("0/000", tile(Some(0), 0, 256)),
            ("1/x001/x234/067", tile(Some(1), 1_234_067, 256)),
            ("entries/255.p/112", tile(None, 255, 112)),
            ("entries/x001/000", tile(None, 1000, 256)),
            ("0/0", Err(())),
            ("0/x000/001", Err(())),
            ("0/001/002", Err(())),
            ("0/x001", Err(())),
            ("0/000.p/0", Err(())),
            ("0/000.p/256", Err(())),
            ("0/000.p/01", Err(())),
            ("00/000", Err(())),
            ("8/000", Err(())),
            ("entries", Err(())),
            ("entries/", Err(())),
            ("0/x999/x999/x999/x999/x999/x999/x999/999", Err(())),
            ("0/٠٠٠", Err(())),
        ];
        for (name, want) in cases {
            assert_eq!(name.parse::<Tile>(), want, "{name}");
        }
    }
}
