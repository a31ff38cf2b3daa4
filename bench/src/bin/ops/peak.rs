//! What registers alone sustain.

use std::{arch::asm, hint::black_box};

use serde_json::{Value, json};

use crate::Options;

const LOOPS: u64 = 20_000;

/// Multiply-adds per second of the instructions that the kernel set is measured by.
pub(crate) fn multiply_adds(options: &Options) -> f64 {
    // Per pass: 8 times 16 or 8 times 64 multiply-adds.
    let (work, macs): (fn(), _) = match options.kernels.name() {
        "avx512-vnni" => (vnni, 8 * 64),
        _ => (widened, 8 * 16),
    };
    (LOOPS * macs) as f64 / options.time(0.2, work).0
}

pub(crate) fn run(options: &Options) -> Vec<(&'static str, Value)> {
    let mut peak = json!({
        "unit": "multiply-adds/s, one core",
        "of": if options.kernels.name() == "avx512-vnni" { "vpdpbusd" } else { "vpmaddwd, vpaddd" },
        "peak": multiply_adds(options),
    });
    if options.kernels.name() == "avx2" {
        peak["grouped"] = ((LOOPS * 8 * 128) as f64 / options.time(0.2, grouped).0).into();
        peak["grouped_of"] = "4 vpmaddubsw, 3 vpaddw, vpmaddwd, vpaddd".into();
    }
    vec![("peak", peak)]
}

/// Eight sums of products of 16-bit operands.
fn widened() {
    let loops = black_box(LOOPS);
    // SAFETY: registers only, each declared; the name of the kernel set says that the CPU has AVX2.
    unsafe {
        asm!(
            "2:",
            "vpmaddwd ymm8, ymm12, ymm13",
            "vpmaddwd ymm9, ymm12, ymm13",
            "vpaddd ymm0, ymm0, ymm8",
            "vpaddd ymm1, ymm1, ymm9",
            "vpmaddwd ymm10, ymm12, ymm13",
            "vpmaddwd ymm11, ymm12, ymm13",
            "vpaddd ymm2, ymm2, ymm10",
            "vpaddd ymm3, ymm3, ymm11",
            "vpmaddwd ymm8, ymm12, ymm13",
            "vpmaddwd ymm9, ymm12, ymm13",
            "vpaddd ymm4, ymm4, ymm8",
            "vpaddd ymm5, ymm5, ymm9",
            "vpmaddwd ymm10, ymm12, ymm13",
            "vpmaddwd ymm11, ymm12, ymm13",
            "vpaddd ymm6, ymm6, ymm10",
            "vpaddd ymm7, ymm7, ymm11",
            "dec {loops}",
            "jnz 2b",
            loops = inout(reg) loops => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _,
            options(nomem, nostack),
        );
    }
}

/// Eight groups of four byte products that share a widening.
fn grouped() {
    let loops = black_box(LOOPS);
    macro_rules! group {
        ($sum:literal) => {
            concat!(
                "vpmaddubsw ymm8, ymm12, ymm13\nvpmaddubsw ymm9, ymm12, ymm13\n",
                "vpmaddubsw ymm10, ymm12, ymm13\nvpmaddubsw ymm11, ymm12, ymm13\n",
                "vpaddw ymm8, ymm8, ymm9\nvpaddw ymm10, ymm10, ymm11\nvpaddw ymm8, ymm8, ymm10\n",
                "vpmaddwd ymm8, ymm8, ymm14\nvpaddd ymm",
                $sum,
                ", ymm",
                $sum,
                ", ymm8\n",
            )
        };
    }
    // SAFETY: registers only, each declared; the name of the kernel set says that the CPU has AVX2.
    unsafe {
        asm!(
            "2:",
            group!("0"), group!("1"), group!("2"), group!("3"),
            group!("4"), group!("5"), group!("6"), group!("7"),
            "dec {loops}",
            "jnz 2b",
            loops = inout(reg) loops => _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _,
            out("ymm6") _, out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _,
            out("ymm12") _, out("ymm13") _, out("ymm14") _,
            options(nomem, nostack),
        );
    }
}

/// Eight sums of products of bytes.
fn vnni() {
    let loops = black_box(LOOPS);
    // SAFETY: registers only, each declared; the name of the kernel set says that the CPU has AVX-512 VNNI.
    unsafe {
        asm!(
            "2:",
            "vpdpbusd zmm0, zmm12, zmm13",
            "vpdpbusd zmm1, zmm12, zmm13",
            "vpdpbusd zmm2, zmm12, zmm13",
            "vpdpbusd zmm3, zmm12, zmm13",
            "vpdpbusd zmm4, zmm12, zmm13",
            "vpdpbusd zmm5, zmm12, zmm13",
            "vpdpbusd zmm6, zmm12, zmm13",
            "vpdpbusd zmm7, zmm12, zmm13",
            "dec {loops}",
            "jnz 2b",
            loops = inout(reg) loops => _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _,
            out("zmm6") _, out("zmm7") _, out("zmm12") _, out("zmm13") _,
            options(nomem, nostack),
        );
    }
}
