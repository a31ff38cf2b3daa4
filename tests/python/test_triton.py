#!/usr/bin/env python3
"""The Open Inference Protocol as an unmodified Triton client sees it.

    test_triton.py --grpc 127.0.0.1:8001 --digits digits --minilm minilm --text pydoc

Compares every message, field and method that the node declares with those of the tritonclient wheel, then
asks a running node for digits, for an embedding and for text, whole and part by part, and checks the claims
that come with them. Each option may come from the environment instead: TEST_GRPC, TEST_DIGITS, TEST_MINILM,
TEST_TEXT. An empty model name skips that model and says so.
"""
import argparse
import os
import pathlib
import re
import sys

import numpy as np
import tritonclient.grpc as triton
from google.protobuf import descriptor_pb2
from tritonclient.grpc import service_pb2

ROOT = pathlib.Path(__file__).resolve().parents[2]
DIGEST = re.compile(r"0x[0-9a-f]{64}")


def declared():
    """The file that the node's reflection serves for package `inference`."""
    files = descriptor_pb2.FileDescriptorSet()
    files.ParseFromString((ROOT / "crates/rpc/src/gen/descriptor.bin").read_bytes())
    (ours,) = [file for file in files.file if file.package == "inference"]
    theirs = descriptor_pb2.FileDescriptorProto()
    service_pb2.DESCRIPTOR.CopyToProto(theirs)
    return ours, theirs


def by_name(items):
    return {item.name: item for item in items}


def same_message(path, ours, theirs):
    """Fields compared; any difference fails."""
    compared = 0
    known = by_name(theirs.field)
    for field in ours.field:
        want = known.get(field.name)
        assert want is not None, f"{path}.{field.name}: the client has no such field"
        for what in ("number", "type", "label", "type_name"):
            got, expected = getattr(field, what), getattr(want, what)
            assert got == expected, f"{path}.{field.name}: {what} {got}, the client's is {expected}"
        home = ours.oneof_decl[field.oneof_index].name if field.HasField("oneof_index") else None
        their_home = theirs.oneof_decl[want.oneof_index].name if want.HasField("oneof_index") else None
        assert home == their_home, f"{path}.{field.name}: oneof {home}, the client's is {their_home}"
        compared += 1
    nested = by_name(theirs.nested_type)
    for message in ours.nested_type:
        assert message.name in nested, f"{path}.{message.name}: the client has no such message"
        compared += same_message(f"{path}.{message.name}", message, nested[message.name])
    return compared


def test_declarations():
    ours, theirs = declared()
    messages = by_name(theirs.message_type)
    fields = 0
    for message in ours.message_type:
        assert message.name in messages, f"{message.name}: the client has no such message"
        fields += same_message(message.name, message, messages[message.name])
    methods = 0
    (service,), their_services = ours.service, by_name(theirs.service)
    known = by_name(their_services[service.name].method)
    for method in service.method:
        want = known[method.name]
        for what in ("input_type", "output_type", "client_streaming", "server_streaming"):
            assert getattr(method, what) == getattr(want, what), f"{method.name}: {what} differs"
        methods += 1
    print(f"declarations  ok   {fields} fields, {methods} methods, 0 differences")


def parameters_of(result):
    """Response parameters as a dictionary; a claim's are all there and well formed."""
    response = result.get_response()
    found = {name: value for name, value in response.parameters.items()}
    for name in ("claim_digest", "request_id", "model_id", "output_hash"):
        assert DIGEST.fullmatch(found[name].string_param), f"{name}: {found[name]}"
    assert found["receipt_url"].string_param == f"/v1/receipts/{found['claim_digest'].string_param}"
    assert found["reached"].int64_param >= 1
    return found


def test_server(client, models):
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    for extension in ("binary_tensor_data", "model_repository", "statistics", "hyperion_claim"):
        assert extension in metadata.extensions, f"{extension} is not announced"
    index = {model.name: model for model in client.get_model_repository_index().models}
    for name in models:
        assert client.is_model_ready(name)
        assert index[name].state == "READY"
    assert not client.is_model_ready("no-such-model")
    print(f"server        ok   {metadata.name} {metadata.version}, {len(index)} models")


def test_digits(client, name):
    metadata = client.get_model_metadata(name)
    (declared_input,), (declared_output,) = metadata.inputs, metadata.outputs
    assert metadata.platform == "hyperion_int8" and DIGEST.fullmatch(metadata.versions[0])
    assert declared_input.datatype == "INT32" and list(declared_input.shape) == [-1, 64]

    rows = np.loadtxt(ROOT / "fixtures/digits/test.csv", delimiter=",", dtype=np.int32)[:8]
    labels, pixels = rows[:, 0], rows[:, 1:] * 4096  # 0..16 becomes 0..1 in Q16
    right = 0
    for label, image in zip(labels, pixels):
        tensor = triton.InferInput(declared_input.name, [1, 64], "INT32")
        tensor.set_data_from_numpy(np.ascontiguousarray(image.reshape(1, 64)))
        result = client.infer(name, [tensor], request_id="a name of the client's own")
        logits = result.as_numpy(declared_output.name)
        assert logits.shape == (1, 10) and logits.dtype == np.int32
        assert result.get_response().id == "a name of the client's own"
        found = parameters_of(result)
        assert found["model_id"].string_param == metadata.versions[0]
        right += int(logits.argmax() == label)
    assert right >= 7, f"{right} of 8 digits were read"

    # The same nonce and deadline are the same request: the same claim comes back.
    tensor = triton.InferInput(declared_input.name, [1, 64], "INT32")
    tensor.set_data_from_numpy(np.ascontiguousarray(pixels[0].reshape(1, 64)))
    again = {"nonce": "0x" + "07" * 32, "deadline_s": 4_000_000_000}
    digests = {
        parameters_of(client.infer(name, [tensor], parameters=dict(again)))["claim_digest"].string_param
        for _ in range(2)
    }
    assert len(digests) == 1, "a repeated request was answered with another claim"

    logged = parameters_of(client.infer(name, [tensor], parameters={"wait_for": "logged"}))
    assert logged["log_index"].int64_param >= 0
    statistics = client.get_inference_statistics(name).model_stats[0]
    assert statistics.inference_count >= 8 and statistics.execution_count >= 1
    print(f"digits        ok   {right} of 8, log entry {logged['log_index'].int64_param}")


def test_refusals(client, name):
    tensor = triton.InferInput("pixels", [1, 64], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 64), np.float32))
    refused("floats", lambda: client.infer(name, [tensor]), "INVALID_ARGUMENT", "INT32")
    short = triton.InferInput("pixels", [1, 63], "INT32")
    short.set_data_from_numpy(np.zeros((1, 63), np.int32))
    refused("a pixel short", lambda: client.infer(name, [short]), "INVALID_ARGUMENT", "64")
    good = triton.InferInput("pixels", [1, 64], "INT32")
    good.set_data_from_numpy(np.zeros((1, 64), np.int32))
    refused("no such model", lambda: client.infer("no-such-model", [good]), "NOT_FOUND", "no-such-model")
    refused("loading", lambda: client.load_model(name), "PERMISSION_DENIED", "admin")
    refused("shared memory", client.get_system_shared_memory_status, "UNIMPLEMENTED", "")
    print("refusals      ok")


def refused(case, call, status, word):
    try:
        call()
    except triton.InferenceServerException as error:
        assert status in str(error.status()), f"{case}: {error.status()}"
        assert word in error.message(), f"{case}: {error.message()}"
        return
    raise AssertionError(f"{case}: was not refused")


def test_stream(client, name):
    answers = []
    client.start_stream(callback=lambda result, error: answers.append((result, error)))
    for _ in range(2):
        tensor = triton.InferInput("pixels", [1, 64], "INT32")
        tensor.set_data_from_numpy(np.zeros((1, 64), np.int32))
        client.async_stream_infer(name, [tensor])
    wrong = triton.InferInput("pixels", [1, 1], "INT32")
    wrong.set_data_from_numpy(np.zeros((1, 1), np.int32))
    client.async_stream_infer(name, [wrong])
    client.stop_stream()
    assert [error is None for _, error in answers] == [True, True, False], answers
    for result, _ in answers[:2]:
        assert parameters_of(result)["triton_final_response"].bool_param
    print("stream        ok   2 answers, 1 error, in order")


def test_minilm(client, name):
    metadata = client.get_model_metadata(name)
    assert [(i.name, i.datatype) for i in metadata.inputs] == [("text_input", "BYTES")], metadata.inputs
    (output,) = metadata.outputs
    vectors = []
    for text in ("A cat sits on the mat.", "A cat is sitting on a mat.", "Interest rates rose again."):
        tensor = triton.InferInput("text_input", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([text.encode()], dtype=object))
        result = client.infer(name, [tensor])
        parameters_of(result)
        embedding = result.as_numpy(output.name)
        assert embedding.shape == (1, 384) and embedding.dtype == np.int16
        vectors.append(embedding[0].astype(np.float64) / 32768)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.8 > 0.3 > far, f"near {near:.3f}, far {far:.3f}"

    broken = triton.InferInput("text_input", [1], "BYTES")
    broken.set_data_from_numpy(np.array([b"\xff\xfe"], dtype=object))
    refused("text that is not UTF-8", lambda: client.infer(name, [broken]), "INVALID_ARGUMENT", "UTF-8")
    print(f"minilm        ok   near {near:.3f}, far {far:.3f}")


def text_inputs(prompt, streaming):
    text = triton.InferInput("text_input", [1], "BYTES")
    text.set_data_from_numpy(np.array([prompt.encode()], dtype=object))
    flag = triton.InferInput("streaming", [1], "BOOL")
    flag.set_data_from_numpy(np.array([streaming]))
    return [text, flag]


def text_of(result, name="text_output"):
    (element,) = result.as_numpy(name)
    return element.decode()


def test_text(client, name):
    metadata = client.get_model_metadata(name)
    assert [(i.name, i.datatype) for i in metadata.inputs] == [("text_input", "BYTES"), ("streaming", "BOOL")]
    assert [o.name for o in metadata.outputs] == ["text_output", "finish_reason", "tokens"]
    prompt = "The list.append() method"
    drawn = {"max_tokens": 24, "temperature": 0.7, "top_p": 0.95, "top_k": 40, "seed": 7}
    fixed = {"nonce": "0x" + "11" * 32, "deadline_s": 4_000_000_000}

    whole = client.infer(name, text_inputs(prompt, False), parameters={**drawn, **fixed})
    said, ids = text_of(whole), whole.as_numpy("tokens")
    assert said and ids.dtype == np.uint32 and 1 <= len(ids) <= 24, (said, ids)
    assert text_of(whole, "finish_reason") in ("stop", "length")
    found = parameters_of(whole)
    assert found["out_tokens"].int64_param == len(ids)
    assert '"topPQ16":62259' in found["sampling"].string_param, found["sampling"]

    # The same request in parts, and between two of them one that fails.
    answers = []
    client.start_stream(callback=lambda result, error: answers.append((result, error)))
    ask = lambda name, more: client.async_stream_infer(
        name, text_inputs(prompt, True), parameters={**drawn, **more}, enable_empty_final_response=True
    )
    ask(name, fixed)
    ask("no-such-model", {})
    ask(name, {})
    client.stop_stream()
    failed = [at for at, (_, error) in enumerate(answers) if error is not None]
    assert len(failed) == 1 and "no-such-model" in str(answers[failed[0]][1]), answers
    for parts in (answers[: failed[0]], answers[failed[0] + 1 :]):
        parts = [result for result, _ in parts]
        final = [part.get_response().parameters["triton_final_response"].bool_param for part in parts]
        assert final == [False] * (len(parts) - 1) + [True], final
        assert len(parts[-1].as_numpy("tokens")) == 0 and text_of(parts[-1]) == ""
        assert text_of(parts[-1], "finish_reason") in ("stop", "length")
        end = parameters_of(parts[-1])
        count = sum(len(part.as_numpy("tokens")) for part in parts)
        assert end["out_tokens"].int64_param == count
        if end["claim_digest"].string_param == found["claim_digest"].string_param:
            assert "".join(map(text_of, parts)) == said
            assert np.concatenate([part.as_numpy("tokens") for part in parts]).tolist() == ids.tolist()
    first, second = (parameters_of(answers[at][0]) for at in (failed[0] - 1, -1))
    assert first["claim_digest"].string_param == found["claim_digest"].string_param
    assert second["claim_digest"].string_param != found["claim_digest"].string_param

    hot = {"temperature": 1000.0}
    refused("too hot", lambda: client.infer(name, text_inputs(prompt, False), parameters=hot), "INVALID_ARGUMENT", "100")
    one = lambda: client.infer(name, text_inputs(prompt, True))
    refused("parts in one answer", one, "INVALID_ARGUMENT", "ModelStreamInfer")
    print(f"text          ok   {len(ids)} tokens whole and in {failed[0]} parts: {said!r}")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--grpc", default=os.environ.get("TEST_GRPC", "127.0.0.1:8001"))
    options.add_argument("--digits", default=os.environ.get("TEST_DIGITS", "digits"))
    options.add_argument("--minilm", default=os.environ.get("TEST_MINILM", "minilm"))
    options.add_argument("--text", default=os.environ.get("TEST_TEXT", "pydoc"))
    options = options.parse_args()

    test_declarations()
    models = [name for name in (options.digits, options.minilm, options.text) if name]
    with triton.InferenceServerClient(options.grpc) as client:
        test_server(client, models)
        if options.digits:
            test_digits(client, options.digits)
            test_refusals(client, options.digits)
            test_stream(client, options.digits)
        else:
            print("digits        skipped: no model named")
        if options.minilm:
            test_minilm(client, options.minilm)
        else:
            print("minilm        skipped: no model named")
        if options.text:
            test_text(client, options.text)
        else:
            print("text          skipped: no model named")
    return 0


if __name__ == "__main__":
    sys.exit(main())
