//! Which sizes the operators accept; whoever holds a shape need not check again.

use hyperion_ops::{
    ActivationTable, AttentionShape, GemmShape, LinearShape, NormKind, NormShape, Pairing,
    PoolMode, RopeShape, Sampling,
    constant::{attention_multiplier, rope_frequency, rope_llama3},
};

#[test]
fn sizes_at_and_beyond_the_limits() {
    let cases = [
        ("depth 0", GemmShape::new(1, 1, 0).is_some(), false),
        ("depth 2^17 - 1", GemmShape::new(1, 1, 131_071).is_some(), true),
        ("depth 2^17", GemmShape::new(1, 1, 131_072).is_some(), false),
        ("no rows", GemmShape::new(0, 1, 1).is_some(), true),
        ("a product beyond memory", GemmShape::new(usize::MAX, 1, 2).is_some(), false),
        ("no input", LinearShape::new(0, 1).is_some(), false),
        ("no output", LinearShape::new(1, 0).is_some(), false),
        ("padded depth 131,040", LinearShape::new(131_040, 1).is_some(), true),
        ("padded depth 131,072", LinearShape::new(131_041, 1).is_some(), false),
        ("depth near 2^32", LinearShape::new(u32::MAX, 1).is_some(), false),
        ("2^18 outputs", LinearShape::new(1, 262_144).is_some(), true),
        ("2^18 + 1 outputs", LinearShape::new(1, 262_145).is_some(), false),
        ("empty group", NormShape::new(NormKind::Layer, 0, 0).is_some(), false),
        ("widest group", NormShape::new(NormKind::Rms, 0, 16_384).is_some(), true),
        ("group too wide", NormShape::new(NormKind::Rms, 0, 16_385).is_some(), false),
        ("no heads", RopeShape::new(0, 64, 64, Pairing::Half).is_some(), false),
        ("an odd rotation", RopeShape::new(1, 64, 63, Pairing::Half).is_some(), false),
        ("no rotation", RopeShape::new(1, 64, 0, Pairing::Half).is_some(), false),
        ("rotation beyond the head", RopeShape::new(1, 64, 66, Pairing::Half).is_some(), false),
        ("widest head", RopeShape::new(64, 256, 2, Pairing::Half).is_some(), true),
        ("row too wide", RopeShape::new(65, 256, 2, Pairing::Half).is_some(), false),
        ("heads near 2^32", RopeShape::new(u32::MAX, 256, 2, Pairing::Half).is_some(), false),
        ("head too wide", AttentionShape::new(1, 1, 257).is_some(), false),
        ("three heads on two", AttentionShape::new(3, 2, 8).is_some(), false),
        ("no key heads", AttentionShape::new(3, 0, 8).is_some(), false),
        ("more key heads than heads", AttentionShape::new(2, 4, 8).is_some(), false),
        ("grouped heads", AttentionShape::new(32, 8, 128).is_some(), true),
        ("heads near 2^32", AttentionShape::new(u32::MAX, 1, u32::MAX).is_some(), false),
        ("cold", Sampling::new(0, 0, 65_536, 0, 0).is_some(), true),
        ("too cold", Sampling::new(655, 0, 65_536, 0, 0).is_some(), false),
        ("coldest", Sampling::new(656, 0, 65_536, 0, 0).is_some(), true),
        ("too hot", Sampling::new(6_553_601, 0, 65_536, 0, 0).is_some(), false),
        ("no share", Sampling::new(656, 0, 0, 0, 0).is_some(), false),
        ("more than all", Sampling::new(656, 0, 65_537, 0, 0).is_some(), false),
        ("largest penalty", Sampling::new(656, 0, 1, 1 << 21, -(1 << 21)).is_some(), true),
        ("penalty too large", Sampling::new(656, 0, 1, 0, (1 << 21) + 1).is_some(), false),
        ("no least share", Sampling::GREEDY.min_p(0).is_some(), true),
        ("the whole share", Sampling::GREEDY.min_p(65_536).is_some(), true),
        ("more than the whole", Sampling::GREEDY.min_p(65_537).is_some(), false),
        ("no repetition penalty", Sampling::GREEDY.repetition(65_536).is_some(), true),
        ("repetition of nothing", Sampling::GREEDY.repetition(0).is_some(), false),
        ("least repetition", Sampling::GREEDY.repetition(8_192).is_some(), true),
        ("less repetition", Sampling::GREEDY.repetition(8_191).is_some(), false),
        ("most repetition", Sampling::GREEDY.repetition(524_288).is_some(), true),
        ("more repetition", Sampling::GREEDY.repetition(524_289).is_some(), false),
        ("penalty of i32::MIN", Sampling::new(656, 0, 1, i32::MIN, 0).is_some(), false),
    ];
    for (name, accepted, want) in cases {
        assert_eq!(accepted, want, "{name}");
    }
}

#[test]
fn a_depth_is_padded_to_thirty_two() {
    for (k, depth) in [(1, 32), (31, 32), (32, 32), (33, 64), (131_040, 131_040)] {
        assert_eq!(LinearShape::new(k, 1).map(LinearShape::depth), Some(depth));
    }
}

#[test]
fn codes_lead_back_to_what_they_name_and_others_to_nothing() {
    for code in 0..=u8::MAX {
        let table = ActivationTable::from_code(code);
        assert_eq!(table.map(ActivationTable::code), [0, 2, 3, 4].contains(&code).then_some(code));
        assert_eq!(PoolMode::from_code(code).map(PoolMode::code), (code < 3).then_some(code));
        assert_eq!(NormKind::from_code(code).map(NormKind::code), (code < 2).then_some(code));
        assert_eq!(Pairing::from_code(code).map(Pairing::code), (code < 2).then_some(code));
    }
}

#[test]
fn visible_positions_at_the_edges() {
    let all = AttentionShape::new(1, 1, 8).unwrap();
    let cases = [
        ("everything", all, 5, 0..10, 0..10),
        ("itself and before", all.with_causal(0), 5, 0..10, 0..6),
        ("the first row", all.with_causal(0), 0, 0..10, 0..1),
        ("a cache that begins later", all.with_causal(0), 7, 4..10, 4..8),
        ("a window of one", all.with_causal(1), 5, 0..10, 5..6),
        ("a window that just holds all", all.with_causal(6), 5, 0..10, 0..6),
        ("a window one short", all.with_causal(5), 5, 0..10, 1..6),
        ("a window near 2^32", all.with_causal(u32::MAX), 5, 0..10, 0..6),
        ("the newest row of a cache", all.with_causal(3), 9, 0..10, 7..10),
    ];
    for (name, shape, position, keys, want) in cases {
        assert_eq!(shape.visible(position, keys), want, "{name}");
    }
}

#[test]
fn constants_that_have_no_value_are_refused() {
    assert_eq!(rope_frequency((1, 2), 64, 0), None, "theta below 1");
    assert_eq!(rope_frequency((1, 0), 64, 0), None, "no ratio");
    assert_eq!(rope_frequency((10_000, 1), 64, 32), None, "no such pair");
    assert_eq!(rope_frequency((10_000, 1), 0, 0), None, "no pairs");
    assert_eq!(rope_llama3(1, 0, 1, 4, 8192), None, "no factor");
    assert_eq!(rope_llama3(1, 8, 4, 4, 8192), None, "no band");
    let widest = rope_llama3(u64::MAX, u32::MAX, 0, u32::MAX, u32::MAX);
    assert_eq!(widest, Some(u64::MAX - 1), "nothing overflows");
    assert_eq!(attention_multiplier(0), None);
    // A ratio and its value in lowest terms are one theta, and a theta of 1 turns all pairs alike.
    assert_eq!(rope_frequency((20_000, 2), 64, 5), rope_frequency((10_000, 1), 64, 5));
    assert_eq!(rope_frequency((1, 1), 64, 31), rope_frequency((10_000, 1), 64, 0));
    assert!(rope_frequency((u64::MAX, 1), 256, 127).is_some(), "the largest theta");
}
