//! OpenAI's completions and chats over HTTP: whole, as events, and refused by name.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{END, Node, Signs, start};
use hyperion_primitives::{B256, RequestId};
use hyperion_rpc::writing::TextDecoder as _;
use serde_json::{Value, json};

async fn post(node: &Node, path: &str, body: &Value) -> (u16, String, Value) {
    let (status, head, body) = node.http("POST", path, &body.to_string()).await;
    (status, head, serde_json::from_str(&body).unwrap_or(Value::Null))
}

/// The events of a stream, without the last `[DONE]`.
async fn events(node: &Node, path: &str, body: &Value) -> Vec<Value> {
    let (status, head, body) = node.http("POST", path, &body.to_string()).await;
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/event-stream"), "{head}");
    let data: Vec<&str> = body.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    let (last, events) = data.split_last().unwrap();
    assert_eq!(*last, "[DONE]");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_comes_whole_with_its_claim() {
    let node = start().await;
    let asked = json!({
        "model": "writer", "prompt": "HELLO", "temperature": 0.7, "top_p": 0.95, "seed": -2,
        "max_tokens": 20, "n": 1, "logprobs": null, "user": "ann", "echo": false,
    });
    let (status, head, body) = post(&node, "/v1/completions", &asked).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["object"], "text_completion");
    let verification = &body["verification"];
    let id = verification["request_id"].as_str().unwrap();
    assert!(head.contains(&format!("x-hyperion-request: {id}")), "{head}");
    assert_eq!(body["id"], format!("cmpl-{id}"));
    let sampling = &verification["sampling"];
    assert_eq!(sampling["temperatureQ16"], 45_875);
    assert_eq!(sampling["topPQ16"], 62_259);
    assert_eq!(sampling["tokensMax"], 20);
    // -2 as 32 bytes, big-endian two's complement.
    let entropy = format!("0x{}fe", "ff".repeat(31));
    assert_eq!(verification["entropy"], entropy);
    let status = node.engine.status(RequestId(id.parse::<B256>().unwrap())).unwrap();
    let hyperion_engine::RequestStatus::Logged { answer, .. } = status else {
        // The log may be a moment behind.
        return;
    };
    let tokens: Vec<u32> = answer
        .output
        .data
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
        .collect();
    assert_eq!(body["choices"][0]["text"], Signs.decode(&tokens).unwrap());
    assert_eq!(body["usage"]["prompt_tokens"], 5);
    assert_eq!(body["usage"]["completion_tokens"], tokens.len());

    // The same seed and prompt give the same text under another request.
    let (_, _, again) = post(&node, "/v1/completions", &asked).await;
    assert_ne!(again["id"], body["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_streams_what_it_would_say_whole() {
    let node = start().await;
    let asked = json!({
        "model": "writer", "temperature": 0, "max_completion_tokens": 30,
        "messages": [
            {"role": "system", "content": "AB"},
            {"role": "user", "content": [{"type": "text", "text": "C"}, {"type": "text", "text": "D"}]},
        ],
    });
    let (status, _, whole) = post(&node, "/v1/chat/completions", &asked).await;
    assert_eq!(status, 200, "{whole}");
    assert_eq!(whole["object"], "chat.completion");
    assert_eq!(whole["choices"][0]["message"]["role"], "assistant");
    assert_eq!(whole["usage"]["prompt_tokens"], 4);
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    let finish = &whole["choices"][0]["finish_reason"];

    let mut streamed = asked.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let events = events(&node, "/v1/chat/completions", &streamed).await;
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    let said: String = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, text);
    let [.., last, usage] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(last["choices"][0]["finish_reason"], *finish);
    let hash = |body: &Value| body["verification"]["output_hash"].clone();
    assert_eq!(hash(last), hash(&whole));
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(usage["choices"], json!([]));
    assert!(events.iter().all(|event| event["object"] == "chat.completion.chunk"));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_probabilities_come_in_both_shapes_whole_and_in_pieces() {
    let node = start().await;
    let chat = |logprobs: Value| {
        let mut body = json!({
            "model": "writer", "temperature": 1.5, "seed": 3, "max_tokens": 30,
            "messages": [{"role": "user", "content": "HELLO"}],
            "verification": {"nonce": format!("0x{:064x}", 5), "deadline_s": 4_000_000_000_u64},
        });
        body.as_object_mut().unwrap().extend(logprobs.as_object().unwrap().clone());
        body
    };
    let (_, _, plain) = post(&node, "/v1/chat/completions", &chat(json!({}))).await;
    assert_eq!(plain["choices"][0]["logprobs"], Value::Null, "{plain}");
    let asked = chat(json!({"logprobs": true, "top_logprobs": 2}));
    let (status, _, told) = post(&node, "/v1/chat/completions", &asked).await;
    assert_eq!(status, 200, "{told}");
    let claim = |body: &Value| body["verification"]["claim_digest"].clone();
    assert_eq!(claim(&told), claim(&plain), "one claim, whatever is told beside it");
    let content = told["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len() as u64, told["usage"]["completion_tokens"].as_u64().unwrap());
    let text: String = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert_eq!(told["choices"][0]["message"]["content"], text);
    for entry in content {
        let top = entry["top_logprobs"].as_array().unwrap();
        let of = |entry: &Value| entry["logprob"].as_f64().unwrap();
        assert!(top.len() == 2 && of(&top[0]) >= of(&top[1]) && of(&top[0]) >= of(entry));
        assert!(of(&top[0]) <= 0.0 && of(&top[0]).exp() + of(&top[1]).exp() < 1.0001);
        assert_eq!(entry["bytes"], json!(entry["token"].as_str().unwrap().as_bytes()));
    }
    let mut in_pieces = asked;
    in_pieces["stream"] = true.into();
    let events = events(&node, "/v1/chat/completions", &in_pieces).await;
    let pieces =
        events.iter().flat_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    assert_eq!(&pieces.flatten().cloned().collect::<Vec<_>>(), content);
    let own = chat(json!({"logprobs": true}));
    let (_, _, own) = post(&node, "/v1/chat/completions", &own).await;
    assert_eq!(own["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));

    let completion = |logprobs: u64, stream: bool| {
        json!({
            "model": "writer", "prompt": "HELLO", "temperature": 0, "max_tokens": 12,
            "logprobs": logprobs, "stream": stream,
        })
    };
    let (_, _, whole) = post(&node, "/v1/completions", &completion(3, false)).await;
    let (choice, told) = (&whole["choices"][0], &whole["choices"][0]["logprobs"]);
    let list = |name: &str| told[name].as_array().unwrap();
    assert_eq!(list("tokens").len() as u64, whole["usage"]["completion_tokens"].as_u64().unwrap());
    let text: String = list("tokens").iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(choice["text"], text);
    let mut offset = 0;
    for (nth, token) in list("tokens").iter().enumerate() {
        assert_eq!(told["text_offset"][nth], offset);
        offset += token.as_str().unwrap().chars().count();
        // Greedy: the token itself is the likeliest of the three.
        let top = told["top_logprobs"][nth].as_object().unwrap();
        assert_eq!(top.len(), 3);
        assert_eq!(top[token.as_str().unwrap()], told["token_logprobs"][nth]);
    }
    let events = self::events(&node, "/v1/completions", &completion(3, true)).await;
    for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        let pieces =
            events.iter().flat_map(|event| event["choices"][0]["logprobs"][name].as_array());
        assert_eq!(&pieces.flatten().cloned().collect::<Vec<_>>(), list(name), "{name}");
    }
    let (_, _, none) = post(&node, "/v1/completions", &completion(0, false)).await;
    assert_eq!(none["choices"][0]["logprobs"]["top_logprobs"], Value::Null);
    assert_eq!(none["choices"][0]["logprobs"]["token_logprobs"], told["token_logprobs"]);
    for wrong in [json!(21), json!(true), json!(-1), json!("3")] {
        let mut body = completion(0, false);
        body["logprobs"] = wrong;
        let (status, _, error) = post(&node, "/v1/completions", &body).await;
        assert_eq!((status, &error["error"]["param"]), (400, &json!("logprobs")), "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_one_token_ends_the_answer_as_any_text_does() {
    let node = start().await;
    let asked = |prompt: &str, stop: Value| {
        let (max_tokens, temperature) = (40, 0);
        json!({
            "model": "writer", "prompt": prompt, "max_tokens": max_tokens, "stop": stop,
            "temperature": temperature,
        })
    };
    // A prompt after which the model says three letters at least, the third one new.
    let mut found = None;
    for prompt in ["A", "B", "C", "D", "E", "F", "G", "H", "I", "J", "K", "L"] {
        let (_, _, free) = post(&node, "/v1/completions", &asked(prompt, Value::Null)).await;
        let text = free["choices"][0]["text"].as_str().unwrap().to_owned();
        let third = text.chars().nth(2);
        if third.is_some_and(|third| text.find(third) == Some(2)) {
            found = Some((prompt, text));
            break;
        }
    }
    let (prompt, text) = found.unwrap();
    let stop = text.chars().nth(2).unwrap().to_string();
    let (status, _, cut) = post(&node, "/v1/completions", &asked(prompt, json!([stop]))).await;
    assert_eq!(status, 200, "{cut}");
    let (before, _) = text.split_once(&stop).unwrap();
    assert_eq!(cut["choices"][0]["text"], before);
    assert_eq!(cut["choices"][0]["finish_reason"], "stop");
    let sampling = &cut["verification"]["sampling"];
    assert_eq!(sampling["stopTokens"], json!([END]), "the model's own");
    assert_eq!(sampling["stopTexts"], json!([stop]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_text_over_several_tokens_ends_an_answer_and_is_never_shown() {
    let node = start().await;
    let asked = |prompt: char, stop: &Value, temperature: u32| {
        json!({
            "model": "writer", "prompt": prompt.to_string(), "temperature": temperature, "seed": 3,
            "max_tokens": 30, "stop": stop,
            "verification": {"nonce": format!("0x{:064x}", 5), "deadline_s": 4_000_000_000_u64},
        })
    };
    let (mut prompt, mut text) = ('A', String::new());
    while text.len() < 6 {
        let (_, _, free) = post(&node, "/v1/completions", &asked(prompt, &Value::Null, 0)).await;
        text = free["choices"][0]["text"].as_str().unwrap().to_owned();
        prompt = if text.len() < 6 { char::from(prompt as u8 + 1) } else { prompt };
    }
    let stop: String = text.chars().skip(2).take(3).collect();
    let before = text.split_once(&stop).unwrap().0;
    for (body, want) in [
        (asked(prompt, &json!([stop, "~~"]), 0), Some(before)),
        (asked(prompt, &json!(stop), 0), Some(before)),
        (asked(prompt, &json!([format!("{stop}{stop}"), "??"]), 2), None),
    ] {
        let (status, _, whole) = post(&node, "/v1/completions", &body).await;
        assert_eq!(status, 200, "{whole}");
        let choice = &whole["choices"][0];
        if let Some(want) = want {
            assert_eq!(
                (choice["text"].as_str(), choice["finish_reason"].as_str()),
                (Some(want), Some("stop"))
            );
            assert_eq!(whole["usage"]["completion_tokens"], before.len() + stop.len(), "{whole}");
        }
        let sampling = &whole["verification"]["sampling"];
        assert!(!sampling["stopTexts"].as_array().unwrap().is_empty());
        assert_eq!(sampling["stopTokens"].as_array().unwrap().len(), 1, "the model's own");
        let mut streamed = body.clone();
        streamed["stream"] = true.into();
        let events = events(&node, "/v1/completions", &streamed).await;
        let said: String =
            events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(choice["text"], said);
        let last = events.last().unwrap();
        assert_eq!(last["choices"][0]["finish_reason"], choice["finish_reason"]);
        assert_eq!(last["verification"]["output_hash"], whole["verification"]["output_hash"]);
        assert_eq!(last["verification"]["sampling"], *sampling);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_built_is_refused_by_name() {
    let node = start().await;
    let chat = |extra: Value| {
        let mut body = json!({"model": "writer", "messages": [{"role": "user", "content": "A"}]});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        body
    };
    let cases = [
        (chat(json!({"n": 2})), "unsupported_parameter", "n"),
        (chat(json!({"logprobs": 3})), "bad_field", "logprobs"),
        (chat(json!({"logprobs": true, "top_logprobs": 21})), "bad_field", "top_logprobs"),
        (chat(json!({"logprobs": true, "top_logprobs": -1})), "bad_field", "top_logprobs"),
        (chat(json!({"top_logprobs": 1})), "bad_field", "top_logprobs"),
        (chat(json!({"logprobs": false, "top_logprobs": 1})), "bad_field", "top_logprobs"),
        (chat(json!({"tools": [{"type": "function"}]})), "unsupported_parameter", "chat"),
        (
            chat(json!({"response_format": {"type": "json_object"}})),
            "unsupported_parameter",
            "response_format",
        ),
        (chat(json!({"stop": ""})), "bad_field", "stop"),
        (chat(json!({"stop": ["AB", 3]})), "bad_field", "stop"),
        (chat(json!({"stop": ["AB", "BC", "CD", "DE", "EF"]})), "input_too_large", "stop"),
        (chat(json!({"stop": "A".repeat(257)})), "input_too_large", "stop"),
        (chat(json!({"stop": 3})), "bad_field", "stop"),
        (chat(json!({"stop": vec!["A"; 33]})), "input_too_large", "stop"),
        (chat(json!({"stop": "A".repeat(100_000)})), "input_too_large", "stop"),
        (chat(json!({"temperature": -1})), "bad_field", "temperature"),
        (chat(json!({"temperature": 1e300})), "sampling_invalid", "temperature"),
        (chat(json!({"temperature": 0.001})), "sampling_invalid", "sampling"),
        (chat(json!({"top_p": 0})), "sampling_invalid", "top_p"),
        (chat(json!({"presence_penalty": 99})), "sampling_invalid", "sampling"),
        (chat(json!({"min_p": -0.1})), "bad_field", "min_p"),
        (chat(json!({"min_p": 1.1})), "sampling_invalid", "sampling"),
        (chat(json!({"min_p": 1e300})), "sampling_invalid", "min_p"),
        (chat(json!({"min_p": 2, "temperature": 0})), "sampling_invalid", "sampling"),
        (chat(json!({"repetition_penalty": 0})), "sampling_invalid", "repetition_penalty"),
        (chat(json!({"repetition_penalty": -1})), "bad_field", "repetition_penalty"),
        (chat(json!({"repetition_penalty": 0.1})), "sampling_invalid", "sampling"),
        (
            chat(json!({"repetition_penalty": 8.1, "temperature": 0})),
            "sampling_invalid",
            "sampling",
        ),
        (
            chat(json!({"max_tokens": 3, "max_completion_tokens": 4})),
            "bad_field",
            "max_completion_tokens",
        ),
        (chat(json!({"max_tokens": 0})), "bad_field", "max_tokens"),
        (chat(json!({"max_tokens": 5000})), "input_too_large", "input"),
        (chat(json!({"prompt": "A"})), "bad_field", "prompt"),
        (chat(json!({"messages": []})), "bad_field", "messages"),
        (chat(json!({"messages": [{"content": "A"}]})), "bad_field", "messages"),
        (
            chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]})),
            "bad_field",
            "messages",
        ),
        (chat(json!({"model": "letters"})), "bad_field", "model"),
        (chat(json!({"model": "nobody"})), "model_not_found", "model"),
        (chat(json!({"verification": {"wait_for": "ever"}})), "bad_field", "wait_for"),
    ];
    for (body, code, param) in cases {
        for stream in [false, true] {
            let mut body = body.clone();
            body["stream"] = stream.into();
            let (status, _, answer) = post(&node, "/v1/chat/completions", &body).await;
            assert!((400..500).contains(&status), "{body}: {status} {answer}");
            let error = &answer["error"];
            assert_eq!(
                (error["code"].as_str(), error["param"].as_str()),
                (Some(code), Some(param)),
                "{body}: {answer}"
            );
        }
    }
    let prompts = [json!(["A", "B"]), json!([]), json!(3), json!([1, -1]), Value::Null];
    for prompt in prompts {
        let body = json!({"model": "writer", "prompt": prompt});
        let (status, _, answer) = post(&node, "/v1/completions", &body).await;
        assert_eq!(status, 400, "{body}: {answer}");
    }
    let ids = json!({"model": "writer", "prompt": [1, 2, 3], "temperature": 0});
    assert_eq!(post(&node, "/v1/completions", &ids).await.0, 200);
}
