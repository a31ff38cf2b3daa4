//! Weights as the CPU keeps them.

use alloc::{vec, vec::Vec};

use hyperion_primitives::{limits::padded_depth, w8r};

use super::{Products, worker::PanelSums};
use crate::{
    LinearShape, TableCodes, Weights,
    gemm::{
        narrow::NarrowPanels,
        packed::{CodeRows, PANEL, Panels},
    },
    nibbles::{GROUP, widened},
    norm::kernel::NormWeights,
    quantize::RowScale,
    requantize::{
        Channels,
        kernel::{Bounds, Ratios},
        requantize, requantize_fine,
    },
};

/// Weights of one step.
#[derive(Debug)]
pub(super) enum Packed {
    Table(Table),
    Norm(NormWeights),
    Linear(Layer),
    Frequencies(Vec<u64>),
}

/// Table of `embed` or `position`.
#[derive(Debug)]
pub(super) struct Table {
    width: usize,
    codes: Codes,
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
}

#[derive(Debug)]
enum Codes {
    Bytes(Vec<i8>),
    Halves(Vec<i16>),
}

/// One row of a table.
#[derive(Clone, Copy, Debug)]
pub(super) enum TableRow<'a> {
    Bytes(&'a [i8], (u8, i8)),
    Halves(&'a [i16], (u8, i8)),
}

/// Codes of a linear layer.
#[derive(Debug)]
pub(super) enum Stored {
    Wide(Panels),
    Narrow(NarrowPanels),
}

/// A linear layer.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) shape: LinearShape,
    pub(super) panels: Stored,
    pub(super) smooth: Option<Vec<u16>>,
    /// `m` and bias, padded to whole panels.
    multipliers: Vec<i32>,
    bias: Vec<i32>,
    /// Of all channels.
    pub(super) bounds: Bounds,
    /// Of each panel.
    panel_bounds: Vec<Bounds>,
    /// As the model has them, for rows that saturate.
    mantissas: Vec<u8>,
    exponents: Vec<i8>,
}

impl Packed {
    /// Bytes that these weights will take.
    pub(super) fn bytes(weights: &Weights<'_>) -> u64 {
        match *weights {
            Weights::Table { rows, width, codes, .. } => {
                let size = if matches!(codes, TableCodes::W8r(_)) { 1 } else { 2 };
                u64::from(rows) * (u64::from(width) * size + 2)
            }
            Weights::Norm { gamma, .. } => 8 * gamma.len() as u64,
            Weights::Linear { shape, .. } => {
                let (n, depth) = (shape.n as usize, shape.depth() as usize);
                let smooth = if shape.smooth { 2 * u64::from(shape.k) } else { 0 };
                let panels = if shape.w4 { NarrowPanels::bytes } else { Panels::bytes };
                panels(n, depth) + (n.next_multiple_of(PANEL) * 11) as u64 + smooth
            }
            Weights::Frequencies(frequencies) => 8 * frequencies.len() as u64,
        }
    }

    /// Packs; `None` when the process has not got the memory.
    pub(super) fn new(weights: &Weights<'_>) -> Option<Self> {
        Some(match *weights {
            Weights::Table { width, codes, mantissas, exponents, .. } => {
                let width = width as usize;
                let codes = Codes::new(codes, width);
                let (mantissas, exponents) = (mantissas.to_vec(), exponents.to_vec());
                Self::Table(Table { width, codes, mantissas, exponents })
            }
            Weights::Norm { gamma, beta } => Self::Norm(NormWeights::new(gamma, beta)),
            Weights::Linear { shape, codes, groups, mantissas, exponents, bias, smooth } => {
                let channels = Channels { mantissas, exponents, bias };
                Self::Linear(Layer::new(shape, (codes, groups), channels, smooth)?)
            }
            Weights::Frequencies(frequencies) => Self::Frequencies(frequencies.to_vec()),
        })
    }
}

impl Codes {
    fn new(codes: TableCodes<'_>, width: usize) -> Self {
        match codes {
            TableCodes::W8r(bytes) => {
                let padded = padded_depth(u32::try_from(width).expect("2^14 at most")) as usize;
                let mut row = vec![0; padded];
                let decode = |bytes: &[u8]| {
                    w8r::decode(bytes, &mut row).expect("the model file was checked");
                    row[..width].to_vec()
                };
                Self::Bytes(bytes.chunks_exact(padded).flat_map(decode).collect())
            }
            TableCodes::I16(bytes) => {
                Self::Halves(bytes.as_chunks().0.iter().map(|b| i16::from_le_bytes(*b)).collect())
            }
        }
    }
}

impl Table {
    pub(super) fn row(&self, row: usize) -> TableRow<'_> {
        let (step, place) =
            ((self.mantissas[row], self.exponents[row]), row * self.width..(row + 1) * self.width);
        match &self.codes {
            Codes::Bytes(codes) => TableRow::Bytes(&codes[place], step),
            Codes::Halves(codes) => TableRow::Halves(&codes[place], step),
        }
    }
}

impl Stored {
    /// How many panels there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Wide(panels) => panels.count(),
            Self::Narrow(panels) => panels.count(),
        }
    }

    /// Bytes of one, scales not counted.
    pub(super) fn bytes_each(&self) -> usize {
        match self {
            Self::Wide(panels) => panels.panel(0).bytes.len(),
            Self::Narrow(panels) => panels.panel(0).bytes(),
        }
    }

    /// Multiplies rows of codes by a panel; the sums go into the tile. Returns its channels.
    #[inline(always)]
    pub(super) fn multiply<K: Products>(
        &self,
        k: K,
        (index, rows): (usize, usize),
        codes: &CodeRows,
        sums: &mut PanelSums,
    ) -> usize {
        let PanelSums { tile, panel: room } = sums;
        let tile = tile.as_mut_slice();
        let panel = match self {
            Self::Wide(panels) => panels.panel(index),
            Self::Narrow(panels) if rows <= K::NARROW_ROWS => {
                let panel = panels.panel(index);
                k.gemm_narrow(panel, codes, 0..rows, tile);
                return panel.width;
            }
            Self::Narrow(panels) => panels.widened(k, index, room.as_mut_slice()),
        };
        k.gemm(panel, codes, 0..rows, tile);
        panel.width
    }
}

impl Layer {
    fn new(
        shape: LinearShape,
        (codes, groups): (&[u8], Option<&[u8]>),
        channels: Channels<'_>,
        smooth: Option<&[u16]>,
    ) -> Option<Self> {
        let (n, depth) = (shape.n as usize, shape.depth() as usize);
        let panels = match groups {
            Some(scales) => Stored::Narrow(NarrowPanels::new(codes, scales, n, depth)?),
            None => Stored::Wide(Panels::new(codes, n, depth)?),
        };
        let top = channels.exponents.iter().copied().max().map_or(0, i32::from);
        let padded = n.next_multiple_of(PANEL);
        let (mut multipliers, mut padded_bias) = (vec![0; padded], vec![0; padded]);
        padded_bias[..n].copy_from_slice(channels.bias.unwrap_or(&vec![0; n]));
        let steps = channels.mantissas.iter().zip(channels.exponents);
        for (m, (mantissa, exponent)) in multipliers.iter_mut().zip(steps) {
            // The exponents of a layer differ by 15 at most, so this has 23 bits.
            *m = i32::from(*mantissa) << (top - i32::from(*exponent));
        }
        let weight_of = |row: usize| -> u64 {
            let magnitude = |byte: &u8| u64::from(byte.abs_diff(128));
            match groups {
                None => codes[row * depth..][..depth].iter().map(magnitude).sum(),
                Some(scales) => {
                    let (halves, groups) = (depth / 2, depth / GROUP);
                    let halves = &codes[row * halves..][..halves];
                    let wide = widened(halves, &scales[row * groups..][..groups]);
                    wide.iter().map(magnitude).sum()
                }
            }
        };
        // A code of an input has a magnitude of 127 at most.
        let reach_of = |(row, m): (usize, &i32)| 127 * weight_of(row) * u64::from(m.unsigned_abs());
        let each: Vec<u64> = multipliers[..n].iter().enumerate().map(reach_of).collect();
        let bounds = |reach: &[u64], bias: &[i32]| Bounds {
            top,
            reach: reach.iter().copied().max().unwrap_or(0),
            bias_max: bias.iter().map(|bias| bias.unsigned_abs()).max().unwrap_or(0),
        };
        let panels_of = each.chunks(PANEL).zip(padded_bias.chunks(PANEL));
        Some(Self {
            shape,
            panels,
            smooth: smooth.map(<[u16]>::to_vec),
            bounds: bounds(&each, &padded_bias),
            panel_bounds: panels_of.map(|(reach, bias)| bounds(reach, bias)).collect(),
            multipliers,
            bias: padded_bias,
            mantissas: channels.mantissas.to_vec(),
            exponents: channels.exponents.to_vec(),
        })
    }

    /// The channels of a panel as its fast kernel reads them.
    pub(super) fn ratios(&self, panel: usize) -> Ratios<'_> {
        let place = panel * PANEL..(panel + 1) * PANEL;
        let (multipliers, bias) = (&self.multipliers[place.clone()], &self.bias[place]);
        Ratios { multipliers, bias, bounds: self.panel_bounds[panel] }
    }

    /// Requantizes a row of a panel by the definition; `acc` has a second half for 15-bit codes.
    #[cold]
    #[inline(never)]
    pub(super) fn requantize(
        &self,
        panel: usize,
        scale: RowScale,
        [hi, lo]: [&[i32]; 2],
        out: &mut [i32],
    ) {
        let place = panel * PANEL..panel * PANEL + out.len();
        let channels = Channels {
            mantissas: &self.mantissas[place.clone()],
            exponents: &self.exponents[place.clone()],
            bias: self.shape.bias.then(|| &self.bias[place]),
        };
        if self.shape.a15 {
            requantize_fine(scale, &channels, &hi[..out.len()], lo, out);
        } else {
            requantize(scale, &channels, &hi[..out.len()], out);
        }
    }
}
