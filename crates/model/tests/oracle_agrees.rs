//! The exact models beside candle in f32: how much the integers cost, and that the oracle reads what the import reads.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::path::{Path, PathBuf};

use common::{Folder, HIDDEN, POSITIONS, VOCABULARY, WIDE, import_bytes, tokens};
use hyperion_model::{
    Model, Tokenizer, Trust,
    oracle::{Agreement, CheckError, Oracle, OracleError, argmax, check, read_inputs},
};
use hyperion_ops::Reference;
use hyperion_primitives::Mix;
use serde_json::json;

fn fixtures() -> PathBuf {
    PathBuf::from("../../fixtures")
}

fn imported(source: &Path) -> Model {
    Model::from_bytes(import_bytes(source).unwrap(), Trust::Nothing).unwrap()
}

/// Held-out images as Q16 rows, with their labels.
fn images() -> Vec<(usize, Vec<u8>)> {
    let text = std::fs::read_to_string(fixtures().join("digits/test.csv")).unwrap();
    let image = |line: &str| {
        let mut numbers = line.split(',').map(|number| number.parse::<i32>().unwrap());
        let label = usize::try_from(numbers.next().unwrap()).unwrap();
        (label, numbers.flat_map(|pixel| (pixel * 4096).to_le_bytes()).collect())
    };
    text.lines().map(image).collect()
}

#[test]
fn the_oracle_reads_digits_as_well_as_scikit_learn_did() {
    let sources = [fixtures().join("digits"), fixtures().join("digits/model.onnx")];
    let [folder, onnx] = sources.map(|source| Oracle::open(&source).unwrap());
    let mut right = 0;
    for (label, input) in images() {
        let row: Vec<f32> = input
            .as_chunks::<4>()
            .0
            .iter()
            .map(|word| i32::from_le_bytes(*word) as f32 / 65_536.0)
            .collect();
        let logits = folder.logits(&row).unwrap();
        assert_eq!(onnx.logits(&row).unwrap(), logits, "the same weights from either file");
        right += usize::from(argmax(&logits) == Some(label));
    }
    // What `train.py` printed, 0.9796 of 540, and what onnxruntime gives for the same file.
    assert_eq!(right, 529);
}

#[test]
fn digits_have_the_class_that_float_gives_them() {
    let source = fixtures().join("digits");
    let (model, oracle) = (imported(&source), Oracle::open(&source).unwrap());
    let inputs: Vec<Vec<u8>> = images().into_iter().map(|(_, input)| input).collect();
    let mut heard = Vec::new();
    let report =
        check(&model, &oracle, &mut Reference::default(), &inputs, &mut |done| heard.push(done))
            .unwrap();
    assert_eq!(heard, (1..=inputs.len()).collect::<Vec<_>>());
    assert!(report.mean() >= 0.995, "{report}");
    println!("{report}");
}

#[test]
fn tiny_encoders_point_where_float_points() {
    let mean = Folder::bert();
    let mut first = Folder::bert();
    first.pooling = json!({"pooling_mode_cls_token": true});
    let mut last = Folder::bert();
    last.pooling = json!({"pooling_mode_lasttoken": true});
    last.modules.as_mut().unwrap().as_array_mut().unwrap().pop();
    let mut all = Folder::bert();
    all.modules = None;
    let mut tanh = Folder::bert();
    tanh.config["hidden_act"] = json!("gelu_new");
    let mut relu = Folder::bert();
    relu.config["hidden_act"] = json!("relu");
    let mut prefixed = Folder::bert();
    prefixed.tensors = prefixed
        .tensors
        .into_iter()
        .map(|(name, tensor)| (format!("bert.{name}"), tensor))
        .collect();
    let mut wide_rows = Folder::wide_bert();
    wide_rows.modules = None;
    let cases = [
        ("wide, massive channels", Folder::wide_bert(), WIDE),
        ("wide, every token", wide_rows, 7 * WIDE),
        ("mean, unit length", mean, HIDDEN),
        ("first token", first, HIDDEN),
        ("last token, any length", last, HIDDEN),
        ("every token", all, 7 * HIDDEN),
        ("gelu by tanh", tanh, HIDDEN),
        ("relu", relu, HIDDEN),
        ("names with the prefix", prefixed, HIDDEN),
    ];
    for (name, folder, width) in cases {
        let (model, source) = (folder.model(), folder.write());
        let oracle = Oracle::open(source.path()).unwrap();
        assert_eq!(oracle.embed(&[1, 2, 3, 4, 5, 6, 7]).unwrap().len(), width, "{name}");
        let mut mix = Mix::new(11);
        let inputs: Vec<Vec<u8>> = [1, 2, 7, 31, POSITIONS].map(|len| tokens(&mut mix, len)).into();
        let report =
            check(&model, &oracle, &mut Reference::default(), &inputs, &mut |_| {}).unwrap();
        assert!(report.min() >= 0.99, "{name}: {report}");
    }
}

#[test]
fn what_the_oracle_cannot_answer_it_names() {
    let folder = Folder::bert().write();
    let encoder = Oracle::open(folder.path()).unwrap();
    let classifier = Oracle::open(&fixtures().join("digits")).unwrap();
    let vocabulary = u32::try_from(VOCABULARY).unwrap();
    let mut max = Folder::bert();
    max.pooling = json!({"pooling_mode_max_tokens": true});
    let mut dense = Folder::bert();
    dense.modules.as_mut().unwrap()[2]["type"] = json!("sentence_transformers.models.Dense");
    let open = |folder: &Folder| Oracle::open(folder.write().path()).unwrap_err();
    let cases = [
        ("logits of an encoder", encoder.logits(&[0.0]).unwrap_err(), "ask it for an embedding"),
        ("an embedding of a row", classifier.embed(&[1]).unwrap_err(), "ask it for logits"),
        (
            "a short row",
            classifier.logits(&[0.0; 63]).unwrap_err(),
            "63 values was given to a model of 64",
        ),
        ("no tokens", encoder.embed(&[]).unwrap_err(), "0 tokens were given"),
        ("too many tokens", encoder.embed(&[1; POSITIONS + 1]).unwrap_err(), "1 to 48"),
        ("an unknown token", encoder.embed(&[1, vocabulary]).unwrap_err(), "token 23"),
        ("another pooling", open(&max), "pooling [\"pooling_mode_max_tokens\"] is not supported"),
        ("another module", open(&dense), "Dense` is not supported"),
        ("another folder", Oracle::open(&fixtures()).unwrap_err(), "neither config.json"),
        ("no file", Oracle::open(Path::new("absent.onnx")).unwrap_err(), "reading absent.onnx"),
    ];
    for (name, error, want) in cases {
        assert!(error.to_string().contains(want), "{name}: {error}");
    }
}

#[test]
fn a_check_against_another_source_or_of_nothing_is_refused() {
    let digits = fixtures().join("digits");
    let (model, oracle) = (imported(&digits), Oracle::open(&digits).unwrap());
    let folder = Folder::bert();
    let encoder = Oracle::open(folder.write().path()).unwrap();
    let mut backend = Reference::default();
    let mut run = |oracle, inputs: &[Vec<u8>]| {
        check(&model, oracle, &mut backend, inputs, &mut |_| {}).unwrap_err()
    };
    assert!(matches!(run(&encoder, &[vec![0; 256]]), CheckError::Source { .. }));
    assert!(matches!(run(&oracle, &[]), CheckError::NoInputs));
    assert!(matches!(run(&oracle, &[vec![0; 255]]), CheckError::Model(_)));
    assert!(matches!(
        run(&oracle, &[vec![0; 512]]),
        CheckError::Oracle(OracleError::Width { given: 128, width: 64 })
    ));
}

#[test]
fn inputs_are_read_line_by_line() {
    let model = imported(&fixtures().join("digits"));
    let folder = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let line = vec!["0.5"; 64].join(",");
    let rows = put("rows.csv", format!("{line}\n\n{line}\n").as_bytes());
    let want = 32_768_i32.to_le_bytes().repeat(64);
    assert_eq!(read_inputs(&rows, &model, None).unwrap(), [want.clone(), want]);
    assert_eq!(read_inputs(&fixtures().join("digits/seven.i32"), &model, None).unwrap().len(), 1);
    let short = put("short.csv", format!("{line}\n1,2\n").as_bytes());
    let error = read_inputs(&short, &model, None).unwrap_err().to_string();
    assert!(error.ends_with("short.csv, line 2: 2 numbers, the model reads 64"), "{error}");
    let encoder = Folder::bert().model();
    assert!(matches!(read_inputs(&rows, &encoder, None), Err(CheckError::NoTokenizer)));
}

/// Where `scripts/setup.sh` leaves all-MiniLM-L6-v2; says so and gives `None` where it is not.
fn minilm() -> Option<PathBuf> {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/hyperion");
    let folder =
        std::env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from).join("minilm");
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    println!("skipped: MiniLM is not in {} (scripts/setup.sh fetches it)", folder.display());
    None
}

/// Some of the sentences; `bench`'s `accuracy` takes all of them.
#[test]
fn minilm_points_where_float_points_and_takes_seconds() {
    let Some(folder) = minilm() else { return };
    let model = imported(&folder);
    let tokenizer =
        Tokenizer::open(&folder.join("tokenizer.json"), model.program().context()).unwrap();
    let tokenizer = tokenizer.for_model(model.tokenizer_hash()).unwrap();
    let oracle = Oracle::open(&folder).unwrap();
    let all = read_inputs(&fixtures().join("sentences.txt"), &model, Some(&tokenizer)).unwrap();
    assert!(all.len() >= 60, "{} sentences", all.len());
    let tokens = all.iter().map(|input| input.len() / 4);
    assert_eq!(
        (tokens.clone().min(), tokens.max()),
        (Some(3), Some(256)),
        "lengths of the sentences"
    );

    let some: Vec<Vec<u8>> =
        all.into_iter().filter(|input| input.len() / 4 <= 64).step_by(6).collect();
    let report = check(&model, &oracle, &mut Reference::default(), &some, &mut |_| {}).unwrap();
    println!("{report}");
    // A text of two words is the hardest: nothing averages a token's rounding out.
    for agreement in &report.agreements {
        assert!(
            matches!(agreement, Agreement::Cosine { cosine, .. } if *cosine >= 0.995),
            "{agreement}"
        );
    }
}
