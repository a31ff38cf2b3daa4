//! One row per sequence: the mean, the first or the last of its rows, scaled to length one if asked.

/// Which rows a pooled row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// The mean of all rows.
    Mean,
    /// The first row.
    First,
    /// The last row.
    Last,
}

impl PoolMode {
    /// Every mode, in code order.
    pub const ALL: [Self; 3] = [Self::Mean, Self::First, Self::Last];

    /// The number that a program names it by.
    pub const fn code(self) -> u8 {
        match self {
            Self::Mean => 0,
            Self::First => 1,
            Self::Last => 2,
        }
    }

    /// The mode with this code; `None` for a number that names none.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.code() == code)
    }
}
