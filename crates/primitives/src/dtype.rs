/// Element type of a committed tensor, with its CT1 code.
///
/// The codes are part of every tensor root (`docs/claims.md`, "CT1") and are the numbers of the
/// protobuf enum `Dtype`, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Dtype {
    /// Signed byte; codes, in `[-127, 127]`.
    I8 = 1,
    /// Unsigned byte.
    U8 = 2,
    /// Signed 16-bit; wide codes, or Q15 outputs of `pool`.
    I16 = 3,
    /// Unsigned 16-bit.
    U16 = 4,
    /// Signed 32-bit; activations in Q16.
    I32 = 5,
    /// Unsigned 32-bit; token ids.
    U32 = 6,
    /// Signed 64-bit.
    I64 = 7,
    /// Unsigned 64-bit.
    U64 = 8,
    /// Weight codes in the arbiter's byte order ([`crate::w8r`]); one byte an element.
    W8r = 17,
}

impl Dtype {
    /// Every element type, in code order.
    pub const ALL: [Self; 9] = [
        Self::I8,
        Self::U8,
        Self::I16,
        Self::U16,
        Self::I32,
        Self::U32,
        Self::I64,
        Self::U64,
        Self::W8r,
    ];

    /// The CT1 code.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The type with this code; `None` for a number that names none.
    pub const fn from_code(code: u8) -> Option<Self> {
        Some(match code {
            1 => Self::I8,
            2 => Self::U8,
            3 => Self::I16,
            4 => Self::U16,
            5 => Self::I32,
            6 => Self::U32,
            7 => Self::I64,
            8 => Self::U64,
            17 => Self::W8r,
            _ => return None,
        })
    }

    /// Bytes of one element: 1, 2, 4 or 8.
    pub const fn bytes(self) -> usize {
        match self {
            Self::I8 | Self::U8 | Self::W8r => 1,
            Self::I16 | Self::U16 => 2,
            Self::I32 | Self::U32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }

    /// Lower-case name, as it is written in receipts and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::I8 => "i8",
            Self::U8 => "u8",
            Self::I16 => "i16",
            Self::U16 => "u16",
            Self::I32 => "i32",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::U64 => "u64",
            Self::W8r => "w8r",
        }
    }

    /// The type with this [`name`](Self::name).
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }
}

impl core::fmt::Display for Dtype {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
