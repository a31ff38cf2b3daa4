//! Manifests: one form, the price of a run, and which inputs a model takes.

mod common;

use common::{flips, program};
use hyperion_primitives::{Dtype, limits::SAT};
use hyperion_verify::{
    Formula, InputError, Manifest, ManifestError, OutputRows, abi, manifest::MANIFEST_BYTES,
};
use proptest::prelude::*;

/// A sentence encoder: token ids in, one unit vector out.
fn encoder() -> Manifest {
    Manifest {
        program_id: program(),
        active: true,
        native: true,
        causal: false,
        generator: false,
        input_dtype: Dtype::U32,
        input_width: 1,
        vocabulary: 30_522,
        output_dtype: Dtype::I16,
        output_width: 384,
        output_rows: OutputRows::One,
        rows_max: 512,
        macs: Formula { base: 0, per_row: 10_616_832, per_pair: 4_608, per_out: 0 },
        elements: Formula { base: 384, per_row: 40_000, per_pair: 72, per_out: 0 },
        peak_bytes: 1 << 20,
    }
}

/// A classifier: 64 pixels in, ten logits out.
fn classifier() -> Manifest {
    Manifest {
        input_dtype: Dtype::I32,
        input_width: 64,
        vocabulary: 0,
        output_dtype: Dtype::I32,
        output_width: 10,
        output_rows: OutputRows::Rows,
        macs: Formula { per_row: 6_464, ..Formula::default() },
        ..encoder()
    }
}

/// A decoder: token ids in, token ids out.
fn generator() -> Manifest {
    Manifest {
        causal: true,
        generator: true,
        output_dtype: Dtype::U32,
        output_width: 1,
        output_rows: OutputRows::Tokens,
        macs: Formula { base: 1, per_row: 10, per_pair: 100, per_out: 1_000 },
        ..encoder()
    }
}

#[test]
fn a_manifest_has_one_form() {
    for manifest in [encoder(), classifier(), generator()] {
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode(&bytes), Ok(manifest));
        for (at, changed) in flips(&bytes) {
            if let Ok(other) = Manifest::decode(&changed) {
                assert_ne!(other, manifest, "byte {at}");
                assert_ne!(other.hash(), manifest.hash(), "byte {at}");
                assert_eq!(other.encode().to_vec(), changed, "byte {at}");
            }
        }
    }
}

#[test]
fn a_manifest_that_is_none_says_why() {
    let good = encoder().encode();
    assert_eq!(Manifest::decode(&[]), Err(ManifestError::Length { got: 0 }));
    assert_eq!(
        Manifest::decode(&[&good[..], &[0]].concat()),
        Err(ManifestError::Length { got: MANIFEST_BYTES + 1 })
    );
    let range = |field, got, min, max| ManifestError::Range { field, got, min, max };
    let cases: [(&str, usize, &[u8], ManifestError); 14] = [
        ("other magic", 3, b"X", ManifestError::Header { got: *b"HYMX\0\x01" }),
        ("version 2", 5, &[2], ManifestError::Header { got: *b"HYMF\0\x02" }),
        ("a fifth flag", 6, &[0x10], ManifestError::Reserved { at: 6 }),
        ("a stray byte", 10, &[1], ManifestError::Reserved { at: 10 }),
        ("a stray gap", 31, &[1], ManifestError::Reserved { at: 28 }),
        ("input of no type", 7, &[9], ManifestError::Code { at: 7, got: 9 }),
        ("input of bytes", 7, &[1], ManifestError::Code { at: 7, got: 1 }),
        ("output of weights", 8, &[17], ManifestError::Code { at: 8, got: 17 }),
        ("rows by rule 3", 9, &[3], ManifestError::Code { at: 9, got: 3 }),
        ("rows per token", 9, &[2], ManifestError::OutputRows),
        ("two ids a row", 15, &[2], range("input width", 2, 1, 1)),
        ("no vocabulary", 16, &[0; 4], range("vocabulary", 0, 1, 262_144)),
        ("no output", 20, &[0; 4], range("output width", 0, 1, 262_144)),
        ("no rows", 24, &[0; 4], range("row limit", 0, 1, 65_536)),
    ];
    for (name, at, value, want) in cases {
        let mut changed = good;
        changed[at..at + value.len()].copy_from_slice(value);
        assert_eq!(Manifest::decode(&changed), Err(want), "{name}");
    }
    let mut pixels = classifier();
    pixels.vocabulary = 1;
    assert_eq!(pixels.check(), Err(range("vocabulary", 1, 0, 0)));
    pixels = Manifest { input_width: 16_385, ..classifier() };
    assert_eq!(pixels.check(), Err(range("input width", 16_385, 1, 16_384)));
}

#[test]
fn a_run_is_priced_from_its_rows() {
    let cases = [
        ("encoder, 1 row", encoder(), (1, 0), Some(1), Some(10_616_832 + 4_608)),
        ("encoder, 128 rows", encoder(), (128, 0), Some(128), Some(1_434_451_968)),
        ("encoder, 512 rows", encoder(), (512, 0), Some(512), Some(6_643_777_536)),
        ("encoder, 513 rows", encoder(), (513, 0), None, None),
        ("encoder, no row", encoder(), (0, 0), None, None),
        ("encoder that generates", encoder(), (1, 1), None, None),
        ("classifier, 3 rows", classifier(), (3, 0), Some(3), Some(19_392)),
        ("generator, 4 in, 4 out", generator(), (4, 4), Some(7), Some(1 + 70 + 2_800 + 4_000)),
        ("generator, no token", generator(), (4, 0), None, None),
        (
            "generator, full",
            generator(),
            (500, 13),
            Some(512),
            Some(1 + 5_120 + 13_132_800 + 13_000),
        ),
        ("generator, one more", generator(), (500, 14), None, None),
        ("generator, beyond u32", generator(), (u32::MAX, 2), None, None),
    ];
    for (name, manifest, (inside, outside), rows, macs) in cases {
        assert_eq!(manifest.rows(inside, outside), rows, "{name}");
        assert_eq!(manifest.macs(inside, outside), macs, "{name}");
    }
    assert_eq!(encoder().elements(128, 0), Some(384 + 128 * 40_000 + 128 * 128 * 72));
    let overflowing = Formula { per_row: u64::MAX, base: 1, ..Formula::default() };
    let manifest = Manifest { macs: overflowing, ..classifier() };
    assert_eq!(manifest.macs(1, 0), None, "a count beyond u64 is no price");
}

#[test]
fn outputs_have_the_shape_the_program_gives_them() {
    let cases = [
        ("encoder", encoder(), (128, 0), [1, 384], 768, 1 + 1),
        ("classifier", classifier(), (5, 0), [5, 10], 200, 2 + 1),
        ("generator", generator(), (300, 200), [200, 1], 800, 2 + 1),
    ];
    for (name, manifest, (inside, outside), dims, bytes, tiles) in cases {
        assert_eq!(manifest.output_dims(inside, outside), Some(dims), "{name}");
        assert_eq!(manifest.output_bytes(inside, outside), Some(bytes), "{name}");
        assert_eq!(manifest.tiles(inside, outside), Some(tiles), "{name}");
    }
    assert_eq!(encoder().tiles(513, 0), None);
}

#[test]
fn an_input_is_taken_or_refused_by_its_first_fault() {
    let ids = |ids: &[u32]| ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>();
    let words =
        |words: &[i32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let encoder = encoder();
    assert_eq!(encoder.check_input(&ids(&[101, 30_521, 102])), Ok(3));
    let max = 30_521;
    let range = |element, got, max| Err(InputError::Range { element, got, max });
    assert_eq!(encoder.check_input(&ids(&[101, 30_522, u32::MAX])), range(1, 30_522, max));
    assert_eq!(encoder.check_input(&ids(&[u32::MAX])), range(0, u32::MAX.into(), max));
    let shape = |got_bytes, row_bytes| Err(InputError::Shape { got_bytes, row_bytes });
    assert_eq!(encoder.check_input(&[]), shape(0, 4));
    assert_eq!(encoder.check_input(&[0; 5]), shape(5, 4));
    assert_eq!(encoder.check_input(&[0; 2_048]), Ok(512));
    assert_eq!(encoder.check_input(&[0xff; 2_052]), Err(InputError::Rows { got: 513, max: 512 }));
    assert_eq!(
        encoder.input_rows(u64::MAX - 3),
        Err(InputError::Rows { got: (u64::MAX - 3) / 4, max: 512 })
    );

    let classifier = classifier();
    let mut row = vec![0; 128];
    (row[0], row[127]) = (SAT, -SAT);
    assert_eq!(classifier.check_input(&words(&row)), Ok(2));
    row[64] = i32::MIN;
    assert_eq!(classifier.check_input(&words(&row)), range(64, i32::MIN.into(), SAT.into()));
    row[64] = SAT + 1;
    assert_eq!(classifier.check_input(&words(&row)), range(64, i64::from(SAT) + 1, SAT.into()));
    assert_eq!(classifier.check_input(&[0; 260]), shape(260, 256));
}

#[test]
fn contracts_see_the_same_numbers() {
    let (manifest, model) = (generator(), abi::Model::from(&generator()));
    assert_eq!(model.programId, manifest.program_id.0);
    assert_eq!(
        (model.active, model.native, model.causal, model.generator),
        (true, true, true, true)
    );
    assert_eq!((model.rowBytes, model.rowsMax, model.peakBytes), (4, 512, 1 << 20));
    let macs = [model.macsBase, model.macsPerRow, model.macsPerPair, model.macsPerOut];
    assert_eq!(macs, [1, 10, 100, 1_000]);
    assert_eq!(abi::Model::from(&classifier()).rowBytes, 256);
}

proptest! {
    #[test]
    fn whatever_decodes_encodes_to_the_same_bytes(
        mut bytes in proptest::collection::vec(any::<u8>(), MANIFEST_BYTES), keep in 0..40_usize,
    ) {
        bytes[..keep].copy_from_slice(&encoder().encode()[..keep]);
        if let Ok(manifest) = Manifest::decode(&bytes) {
            prop_assert_eq!(manifest.encode().to_vec(), bytes);
        }
    }
}
