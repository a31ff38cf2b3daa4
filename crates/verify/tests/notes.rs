//! Checkpoints: the vectors, who signed, and that each text has one form.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use common::{Log, b256, bytes, flips, store_vectors, text};
use hyperion_primitives::B256;
use hyperion_verify::{
    Checkpoint, KeyKind, NoteKey, NoteSigner, SignedNote,
    note::{KeyError, NOTE_BYTES_MAX, NoteError},
};

fn signer(name: &str, kind: KeyKind, seed: &[u8]) -> NoteSigner {
    NoteSigner::new(name, kind, seed.try_into().unwrap()).unwrap()
}

#[test]
fn the_checkpoint_of_the_vectors_is_signed_byte_for_byte() {
    let vectors = &store_vectors()["block"];
    let log = signer("example.org/hyperion/133717", KeyKind::Log, &bytes(&vectors["log_key_seed"]));
    let witness =
        signer("witness.example.org/w1", KeyKind::Witness, &bytes(&vectors["witness_key_seed"]));
    let checkpoint = Checkpoint {
        origin: log.key().name().to_owned(),
        size: 3,
        root: b256(&vectors["log_root"]),
    };
    let mut note = checkpoint.sign(&log);
    note.cosign(&witness, 1_767_225_602);
    let want = text(&vectors["checkpoint"]);
    assert_eq!(note.to_string(), want);
    assert_eq!(want.parse(), Ok(note.clone()));
    assert_eq!(note.verify(log.key()), Ok(()));
    assert_eq!(note.cosigned_at(witness.key()), Ok(1_767_225_602));
    assert_eq!(Checkpoint::parse(&note.checkpoint.body()).as_ref(), Ok(&note.checkpoint));
}

#[test]
fn a_note_is_the_logs_only_if_the_log_signed_it() {
    let Log { note, trust, .. } = Log::of(5);
    let witness = &trust.witnesses[0];
    let name = |key: &NoteKey| key.name().to_owned();
    let verify = |note: &SignedNote| note.verify(&trust.log);
    assert_eq!(verify(&note), Ok(()));

    assert_eq!(
        note.verify(witness),
        Err(NoteError::Kind { name: name(witness), want: KeyKind::Log }),
        "a witness does not vouch for the log's claims"
    );
    assert_eq!(
        note.cosigned_at(&trust.log),
        Err(NoteError::Kind { name: name(&trust.log), want: KeyKind::Witness })
    );

    let mut grown = note.clone();
    grown.checkpoint.size += 1;
    assert_eq!(verify(&grown), Err(NoteError::Signature { name: name(&trust.log) }));
    assert_eq!(grown.cosigned_at(witness), Err(NoteError::Signature { name: name(witness) }));

    let mut renamed = note.clone();
    renamed.checkpoint.origin = "example.org/other".to_owned();
    let (got, want) = (renamed.checkpoint.origin.clone(), name(&trust.log));
    assert_eq!(verify(&renamed), Err(NoteError::Origin { got, want }));

    let mut bare = note.clone();
    bare.signatures.retain(|line| line.name != trust.log.name());
    assert_eq!(verify(&bare), Err(NoteError::Unsigned { name: name(&trust.log) }));

    let namesake = signer(trust.log.name(), KeyKind::Log, &[9; 32]);
    assert_eq!(
        note.verify(namesake.key()),
        Err(NoteError::Unsigned { name: name(&trust.log) }),
        "another key under the same name has another id"
    );

    let mut later = note.clone();
    later.signatures[1].payload[7] ^= 1;
    assert_eq!(later.cosigned_at(witness), Err(NoteError::Signature { name: name(witness) }));
    let mut short = note;
    short.signatures[1].payload.truncate(7);
    assert_eq!(short.cosigned_at(witness), Err(NoteError::Signature { name: name(witness) }));
}

/// C2SP now prefers ML-DSA cosignatures (kind 6), which we do not judge but must not lose.
#[test]
fn lines_of_unknown_keys_are_kept() {
    let Log { note, trust, .. } = Log::of(2);
    let with_unknown = format!("{note}— post-quantum.example BgYGBgEC\n");
    let parsed: SignedNote = with_unknown.parse().unwrap();
    assert_eq!(parsed.to_string(), with_unknown);
    assert_eq!(parsed.signatures.len(), 3);
    assert_eq!(parsed.verify(&trust.log), Ok(()));
}

#[test]
fn a_malformed_note_names_the_line() {
    let note = Log::of(3).note.to_string();
    let line = |line, want| NoteError::Line { line, want };
    let cases = [
        ("nothing", String::new(), line(1, "origin")),
        ("no origin", note.replacen("example.org/log", "", 1), line(1, "origin")),
        ("a tab in the origin", note.replacen('/', "\t", 1), line(1, "origin")),
        ("a leading zero", note.replacen("\n3\n", "\n03\n", 1), line(2, "size")),
        ("a plus sign", note.replacen("\n3\n", "\n+3\n", 1), line(2, "size")),
        (
            "a size beyond u64",
            note.replacen("\n3\n", "\n18446744073709551616\n", 1),
            line(2, "size"),
        ),
        ("a short root", note.replacen("=\n\n", "\n\n", 1), line(3, "base64 of a root")),
        ("an extension line", note.replacen("\n\n", "\nmore\n\n", 1), line(4, "blank line")),
        (
            "no signature",
            note[..note.find("\n\n").unwrap() + 2].to_owned(),
            line(5, "signature line"),
        ),
        ("a hyphen for the dash", note.replacen('—', "-", 1), line(5, "signature line")),
        ("two spaces", note.replacen("— ", "—  ", 1), line(5, "signature line")),
        ("a plus in a name", note.replacen("— e", "— +", 1), line(5, "signature line")),
        ("a wide space in a name", note.replacen("— e", "— \u{a0}", 1), line(5, "signature line")),
        ("no last newline", note.trim_end().to_owned(), line(6, "signature line")),
        ("a line after all", format!("{note}\n"), line(7, "signature line")),
        ("Windows ends", note.replace('\n', "\r\n"), line(1, "origin")),
        ("a key id alone", format!("{note}— x AAAAAA==\n"), line(7, "signature line")),
        ("base64 with stray bits", format!("{note}— x AAAAAAF=\n"), line(7, "signature line")),
    ];
    for (name, text, want) in cases {
        assert_eq!(text.parse::<SignedNote>(), Err(want), "{name}");
    }
    let long = format!("{note}{}", "— x AAAAAAAA\n".repeat(NOTE_BYTES_MAX / 14));
    assert_eq!(long.parse::<SignedNote>(), Err(NoteError::Length { got: long.len() }));
    let body = format!("{}x", Log::of(3).note.checkpoint.body());
    let after = "line of it; the note ends before";
    assert_eq!(Checkpoint::parse(&body), Err(line(4, after)));
}

#[test]
fn a_note_with_one_byte_changed_is_refused_or_still_says_the_same() {
    let Log { note, trust, .. } = Log::of(4);
    let text = note.to_string();
    for (at, changed) in flips(text.as_bytes()) {
        let Ok(changed) = String::from_utf8(changed) else { continue };
        let Ok(parsed) = changed.parse::<SignedNote>() else { continue };
        assert_eq!(parsed.to_string(), changed, "byte {at}: two texts of one note");
        if parsed.verify(&trust.log).is_ok() {
            assert_eq!(parsed.checkpoint, note.checkpoint, "byte {at}");
            assert!(parsed.cosigned_at(&trust.witnesses[0]).is_err(), "byte {at}");
        }
    }
}

#[test]
fn keys_have_one_text_and_names_that_a_line_can_hold() {
    let Log { trust, .. } = Log::of(1);
    for key in [&trust.log, &trust.witnesses[0]] {
        let text = key.to_string();
        assert_eq!(text.parse().as_ref(), Ok(key));
        let id = text.split('+').nth(1).unwrap().to_owned();
        assert!(text.replacen(&id, "00000000", 1).parse::<NoteKey>().is_err(), "another id");
        for (at, changed) in flips(text.as_bytes()) {
            let Ok(changed) = String::from_utf8(changed) else { continue };
            assert!(changed.parse::<NoteKey>().is_err(), "byte {at}: {changed}");
        }
    }
    for name in ["", "a b", "a+b", "a\nb", "a\u{a0}b"] {
        let got = name.to_owned();
        let made = NoteSigner::new(name, KeyKind::Log, &[1; 32]).map(|_| ());
        assert_eq!(made, Err(KeyError::Name { got }));
    }
    let off_curve = [2; 32];
    assert_eq!(NoteKey::new("x", KeyKind::Log, &off_curve), Err(KeyError::Point));
    assert!(matches!("x+y".parse::<NoteKey>(), Err(KeyError::Form { .. })));
    assert_ne!(trust.log.id(), trust.witnesses[0].id());
    assert_eq!(trust.log.public().len(), B256::len_bytes());
}
