//! The five tables, embedded as their committed little-endian bytes.
//!
//! Each entry is a real number correctly rounded, half up; no value lies within `2^-160` of a rounding
//! boundary, so any correct method gives the same bytes. `cargo xtask tables --check` computes them anew.
//!
//! | id | table | entry `i` |
//! |---|---|---|
//! | 1 | EXP2 | `2^28 * 2^(-i/256)` |
//! | 2 | GELU | `2^16 * x/2 * erfc(x / sqrt 2)`, `x = i/256` |
//! | 3 | `GELU_TANH` | `2^16 * x / (1 + exp(2 sqrt(2/pi) (x + 0.044715 x^3)))`, `x = i/256` |
//! | 4 | SILU | `2^16 * x / (1 + e^x)`, `x = i/256` |
//! | 5 | SIN | `2^14 * sin(pi/2 * i / 2^14)` |

use hyperion_primitives::{B256, Dtype, Keccak, TensorRoot, tensor_root};

/// Powers `2^(-i/256)` in Q28.
pub static EXP2: [u32; 256] = words(include_bytes!("../tables/exp2.bin"));
/// Correction of GELU in Q16, by the error function.
pub static GELU: [u16; 2048] = halves(include_bytes!("../tables/gelu.bin"));
/// Correction of the tanh form of GELU in Q16.
pub static GELU_TANH: [u16; 2048] = halves(include_bytes!("../tables/gelu_tanh.bin"));
/// Correction of SILU in Q16.
pub static SILU: [u16; 4096] = halves(include_bytes!("../tables/silu.bin"));
/// A quarter of a sine in Q14, both ends included.
pub static SIN: [u16; 16385] = halves(include_bytes!("../tables/sin.bin"));

/// Commitment to all five tables; part of every program, so a changed table is a different program.
///
/// `K("TB1" ‖ (id u8 ‖ root)…)` in id order.
pub const TABLES_ROOT: B256 = B256::new([
    0x6d, 0x19, 0xa1, 0x3f, 0x17, 0xa7, 0xe9, 0x7f, 0x95, 0x97, 0x33, 0xa5, 0xcd, 0xc9, 0x97, 0xc8,
    0x57, 0x4b, 0x8b, 0xf0, 0x69, 0xc5, 0x68, 0x5a, 0xdf, 0x01, 0xb9, 0x39, 0x96, 0x2c, 0x2f, 0x59,
]);

/// One of the five tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// [`EXP2`].
    Exp2,
    /// [`GELU`].
    Gelu,
    /// [`GELU_TANH`].
    GeluTanh,
    /// [`SILU`].
    Silu,
    /// [`SIN`].
    Sin,
}

impl Table {
    /// Every table, in id order.
    pub const ALL: [Self; 5] = [Self::Exp2, Self::Gelu, Self::GeluTanh, Self::Silu, Self::Sin];

    /// The number that [`TABLES_ROOT`] names it by.
    pub const fn id(self) -> u8 {
        match self {
            Self::Exp2 => 1,
            Self::Gelu => 2,
            Self::GeluTanh => 3,
            Self::Silu => 4,
            Self::Sin => 5,
        }
    }

    /// Name of its file under `crates/ops/tables/`, without the extension.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Exp2 => "exp2",
            Self::Gelu => "gelu",
            Self::GeluTanh => "gelu_tanh",
            Self::Silu => "silu",
            Self::Sin => "sin",
        }
    }

    /// Type of its entries.
    pub const fn dtype(self) -> Dtype {
        match self {
            Self::Exp2 => Dtype::U32,
            Self::Gelu | Self::GeluTanh | Self::Silu | Self::Sin => Dtype::U16,
        }
    }

    /// Its entries as committed, little-endian.
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Exp2 => include_bytes!("../tables/exp2.bin"),
            Self::Gelu => include_bytes!("../tables/gelu.bin"),
            Self::GeluTanh => include_bytes!("../tables/gelu_tanh.bin"),
            Self::Silu => include_bytes!("../tables/silu.bin"),
            Self::Sin => include_bytes!("../tables/sin.bin"),
        }
    }

    /// CT1 root of the tensor `[1, entries]`.
    pub fn root(self) -> TensorRoot {
        let entries = self.bytes().len() / self.dtype().bytes();
        tensor_root(self.dtype(), &[1, entries as u64], self.bytes())
            .expect("a table is not empty and its length is its shape")
    }
}

/// [`TABLES_ROOT`], computed from the bytes in this program.
pub fn tables_root() -> B256 {
    let mut root = Keccak::tagged(b"TB1");
    for table in Table::ALL {
        root.u8(table.id()).update(table.root().0);
    }
    root.finish()
}

/// `2^(-d/256)` in units of `2^-(28 - drop)`, rounded down; 0 once nothing is left.
pub fn exp2_neg(d: u32, drop: u32) -> u32 {
    let shift = (d >> 8) + drop;
    if shift <= 28 { EXP2[(d & 255) as usize] >> shift } else { 0 }
}

const fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    assert!(bytes.len() == 4 * N, "four bytes an entry");
    let mut entries = [0; N];
    let mut i = 0;
    while i < N {
        let at = 4 * i;
        entries[i] = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        i += 1;
    }
    entries
}

const fn halves<const N: usize>(bytes: &[u8]) -> [u16; N] {
    assert!(bytes.len() == 2 * N, "two bytes an entry");
    let mut entries = [0; N];
    let mut i = 0;
    while i < N {
        entries[i] = u16::from_le_bytes([bytes[2 * i], bytes[2 * i + 1]]);
        i += 1;
    }
    entries
}
