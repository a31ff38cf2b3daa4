//! The HTTP door: what each path says, and how it refuses.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{Setup, ask_digits, seven, start, start_with};
use hyperion_rpc::{r#gen::v1, limits::Limits};
use serde_json::Value;

fn json(body: &str) -> Value {
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_say_what_fails() {
    let node = start().await;
    assert_eq!(node.http("GET", "/livez", "").await.0, 200);
    assert_eq!(node.http("GET", "/readyz", "").await.0, 200);
    *node.word.0.lock().unwrap() = Some("the store is poisoned".into());
    let (status, _, body) = node.http("GET", "/readyz", "").await;
    assert_eq!((status, body.as_str()), (503, "the store is poisoned\n"));
    *node.word.0.lock().unwrap() = None;
    node.shutdown.drain.cancel();
    let (status, _, body) = node.http("GET", "/readyz", "").await;
    assert_eq!((status, body.as_str()), (503, "the node is draining\n"));
    assert_eq!(node.http("GET", "/livez", "").await.0, 200, "alive all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_quotes_say_what_grpc_says() {
    let node = start().await;
    let (status, _, body) = node.http("GET", "/v1/models", "").await;
    let models = json(&body);
    assert_eq!((status, &models["object"]), (200, &"list".into()));
    let digits =
        models["data"].as_array().unwrap().iter().find(|model| model["id"] == "digits").unwrap();
    let more = &digits["hyperion"];
    assert_eq!(more["modelId"], node.model("digits").id.to_string());
    assert_eq!(
        (&more["inputs"][0]["dtype"], &more["inputs"][0]["dims"][1]),
        (&"i32".into(), &64.into())
    );
    assert_eq!((&more["macsPerRow"], &more["ready"]), (&more["macsPerRow"], &true.into()));

    let (status, _, body) =
        node.http("POST", "/v1/quote", r#"{"model":"digits","inputBytes":"256"}"#).await;
    let quote = json(&body);
    assert_eq!((status, &quote["macs"], &quote["gas"]), (200, &"6464".into(), &"256".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_found_by_its_digest_and_by_its_request() {
    let node = start().await;
    let mut client = node.client().await;
    let mut asked = ask_digits(seven());
    asked.wait_for = v1::WaitFor::Logged.into();
    let answer = client.inference.infer(asked).await.unwrap().into_inner();
    let claim = answer.claim.unwrap();
    let digest = format!("0x{}", hex::encode(&claim.claim_digest));
    let request = format!("0x{}", hex::encode(&claim.claim.unwrap().request_id));
    for name in [&digest, &request] {
        let (status, _, body) = node.http("GET", &format!("/v1/claims/{name}"), "").await;
        let found = json(&body);
        assert_eq!(
            (status, &found["state"], &found["index"]),
            (200, &"logged".into(), &"0".into())
        );
        assert_eq!(
            (&found["claimDigest"], &found["claim"]["requestId"]),
            (&digest.clone().into(), &request.clone().into())
        );
        assert_eq!((&found["claim"]["macs"], &found["reached"]), (&"6464".into(), &1.into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_rows_of_the_error_table() {
    let limits = Limits { body_bytes_max: 1000, ..Limits::default() };
    let node = start_with(Setup { limits, ..Setup::default() }).await;
    let unknown = format!("0x{}", "11".repeat(32));
    let upper = format!("0x{}", "AB".repeat(32));
    let long = format!("{{\"model\":\"{}\"}}", "m".repeat(1000));
    let cases = [
        ("an unknown claim", "GET", format!("/v1/claims/{unknown}"), "", 404, "claim_not_found"),
        (
            "an unknown receipt",
            "GET",
            format!("/v1/receipts/{unknown}"),
            "",
            404,
            "claim_not_found",
        ),
        ("a digest in capitals", "GET", format!("/v1/claims/{upper}"), "", 400, "bad_field"),
        ("half a digest", "GET", "/v1/receipts/0x11".into(), "", 400, "bad_field"),
        ("a claim that is no text", "GET", "/v1/claims/%ff".into(), "", 400, "bad_field"),
        ("a receipt that is no text", "GET", "/v1/receipts/%ff".into(), "", 400, "bad_field"),
        ("a tile that is no text", "GET", "/log/tile/0/%ff".into(), "", 400, "bad_field"),
        ("no JSON", "POST", "/v1/quote".into(), "{", 400, "bad_field"),
        (
            "an unknown key",
            "POST",
            "/v1/quote".into(),
            r#"{"model":"digits","bytes":1}"#,
            400,
            "bad_field",
        ),
        (
            "a number for a string",
            "POST",
            "/v1/quote".into(),
            r#"{"model":"digits","inputBytes":256}"#,
            400,
            "bad_field",
        ),
        (
            "no such model",
            "POST",
            "/v1/quote".into(),
            r#"{"model":"nobody","inputBytes":"256"}"#,
            404,
            "model_not_found",
        ),
        (
            "no whole row",
            "POST",
            "/v1/quote".into(),
            r#"{"model":"digits","inputBytes":"255"}"#,
            400,
            "input_shape",
        ),
        ("a long body", "POST", "/v1/quote".into(), &long, 413, "input_too_large"),
    ];
    for (name, method, path, body, want, code) in cases {
        let (status, _, body) = node.http(method, &path, body).await;
        assert_eq!((status, &json(&body)["error"]["code"]), (want, &code.into()), "{name}: {body}");
    }
    assert_eq!(node.http("GET", "/nowhere", "").await.0, 404);
    assert_eq!(node.http("DELETE", "/v1/models", "").await.0, 405);
}

/// Once answered with `input_too_large`, as every body that could not be read.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_not_too_large() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let node = start().await;
    for path in ["/v1/quote", "/v1/embeddings"] {
        let mut socket = tokio::net::TcpStream::connect(node.http).await.unwrap();
        let request =
            format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{{");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 "), "{path}: {head}");
        assert_eq!(json(body)["error"]["code"], "bad_field", "{path}: {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedding_comes_with_its_claim() {
    let node = start().await;
    let asked =
        r#"{"model":"letters","input":"hello","user":"me","verification":{"wait_for":"logged"}}"#;
    let (status, head, body) = node.http("POST", "/v1/embeddings", asked).await;
    let answer = json(&body);
    assert_eq!(
        (status, &answer["object"], &answer["data"][0]["index"]),
        (200, &"list".into(), &0.into()),
        "{body}"
    );
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
    let claim = answer["verification"]["claim_digest"].as_str().unwrap();
    assert!(head.contains(&format!("x-hyperion-claim: {claim}")), "{head}");
    assert_eq!(
        node.http("GET", answer["verification"]["receipt_url"].as_str().unwrap(), "").await.0,
        200
    );
    assert_eq!(answer["verification"]["log_index"], "0");
    let floats: Vec<f64> = answer["data"][0]["embedding"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    let length: f64 = floats.iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 0.001, "a row of length one: {length}");
    assert!(floats.iter().all(|value| (value * 32_768.0).fract() == 0.0), "Q15, exactly");

    let asked = r#"{"model":"letters","input":["hello"],"encoding_format":"base64"}"#;
    let (_, _, body) = node.http("POST", "/v1/embeddings", asked).await;
    let bytes = unbase64(json(&body)["data"][0]["embedding"].as_str().unwrap());
    let decoded: Vec<f64> =
        bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()).into()).collect();
    assert_eq!(decoded, floats, "both encodings are the same numbers");

    for (name, asked, want, code) in [
        ("a model of images", r#"{"model":"digits","input":"a"}"#, 400, "bad_field"),
        ("two inputs", r#"{"model":"letters","input":["a","b"]}"#, 400, "unsupported_parameter"),
        ("token ids", r#"{"model":"letters","input":[1,2]}"#, 400, "unsupported_parameter"),
        (
            "dimensions",
            r#"{"model":"letters","input":"a","dimensions":8}"#,
            400,
            "unsupported_parameter",
        ),
        (
            "an unknown encoding",
            r#"{"model":"letters","input":"a","encoding_format":"int8"}"#,
            400,
            "bad_field",
        ),
        ("no input", r#"{"model":"letters"}"#, 400, "bad_field"),
        ("an empty input", r#"{"model":"letters","input":""}"#, 400, "input_shape"),
        (
            "tier 3",
            r#"{"model":"letters","input":"a","verification":{"tier":3}}"#,
            400,
            "bad_field",
        ),
    ] {
        let (status, _, body) = node.http("POST", "/v1/embeddings", asked).await;
        assert_eq!((status, &json(&body)["error"]["code"]), (want, &code.into()), "{name}: {body}");
    }
}

fn unbase64(text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(text).unwrap()
}
