#!/usr/bin/env python3
"""onnxruntime on all-MiniLM-L6-v2: the peer of the MiniLM speed line (M3).

  minilm_onnx.py MODEL_DIR [--threads 1] [--shapes 1x128,8x128] [--seconds 3]

Builds the float graph from the model's own safetensors, lets onnxruntime's transformer optimiser fuse it
(attention, GELU, layer normalisation), quantises a copy dynamically (u8 activations, s8 weights: the path
onnxruntime is fast on), compares both with the embedding of a plain numpy forward pass, and then times both.
Prints one JSON object: tokens per second, median of the repetitions, per engine and shape, and each engine's
cosine to numpy. The int8 path's cosine is
0.93 with VNNI and without, where float's is 1.0: that belongs beside its speed.
"""
import argparse
import json
import logging
import math
import pathlib
import statistics
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers import optimizer
from onnxruntime.transformers.fusion_options import FusionOptions
from safetensors.numpy import load_file

logging.disable(logging.WARNING)


class Graph:
    """An ONNX graph under construction; each method adds a node and returns the name of its result."""

    def __init__(self):
        self.nodes, self.tensors, self.count = [], [], 0

    def name(self):
        self.count += 1
        return f"v{self.count}"

    def constant(self, value):
        name = self.name()
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, kind, *inputs, **attributes):
        out = self.name()
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=f"{kind}_{out}", **attributes))
        return out


def build(config, weights):
    """The encoder up to the last hidden state, in the shapes of the usual PyTorch export."""
    graph = Graph()
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = hidden // heads

    def weight(name):
        return weights[name.removeprefix("bert.")]

    def norm(x, prefix):
        return graph.op("LayerNormalization", x, graph.constant(weight(f"{prefix}.weight")),
                        graph.constant(weight(f"{prefix}.bias")), axis=-1, epsilon=config["layer_norm_eps"])

    def linear(x, prefix):
        product = graph.op("MatMul", x, graph.constant(np.ascontiguousarray(weight(f"{prefix}.weight").T)))
        return graph.op("Add", graph.constant(weight(f"{prefix}.bias")), product)

    shape = graph.op("Shape", "input_ids")
    batch = graph.op("Gather", shape, graph.constant(np.int64(0)), axis=0)
    length = graph.op("Gather", shape, graph.constant(np.int64(1)), axis=0)
    axis0 = graph.constant(np.array([0], np.int64))
    batch, length = graph.op("Unsqueeze", batch, axis0), graph.op("Unsqueeze", length, axis0)

    positions = graph.op("Slice", graph.constant(weight("embeddings.position_embeddings.weight")), axis0, length, axis0)
    x = graph.op("Gather", graph.constant(weight("embeddings.word_embeddings.weight")), "input_ids", axis=0)
    x = graph.op("Add", x, graph.constant(weight("embeddings.token_type_embeddings.weight")[0]))
    x = graph.op("Add", x, positions)
    x = norm(x, "embeddings.LayerNorm")

    def split(y, order):
        target = graph.op("Concat", batch, length, graph.constant(np.array([heads, size], np.int64)), axis=0)
        return graph.op("Transpose", graph.op("Reshape", y, target), perm=order)

    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        q = split(linear(x, f"{prefix}.attention.self.query"), [0, 2, 1, 3])
        k = split(linear(x, f"{prefix}.attention.self.key"), [0, 2, 3, 1])
        v = split(linear(x, f"{prefix}.attention.self.value"), [0, 2, 1, 3])
        scores = graph.op("Div", graph.op("MatMul", q, k), graph.constant(np.float32(math.sqrt(size))))
        context = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), v)
        flat = graph.op("Concat", batch, length, graph.constant(np.array([hidden], np.int64)), axis=0)
        context = graph.op("Reshape", graph.op("Transpose", context, perm=[0, 2, 1, 3]), flat)
        x = norm(graph.op("Add", linear(context, f"{prefix}.attention.output.dense"), x), f"{prefix}.attention.output.LayerNorm")
        y = linear(x, f"{prefix}.intermediate.dense")
        erf = graph.op("Erf", graph.op("Div", y, graph.constant(np.float32(math.sqrt(2)))))
        y = graph.op("Mul", graph.op("Mul", y, graph.op("Add", erf, graph.constant(np.float32(1)))), graph.constant(np.float32(0.5)))
        x = norm(graph.op("Add", linear(y, f"{prefix}.output.dense"), x), f"{prefix}.output.LayerNorm")

    graph.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "length"])]
    outputs = [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["batch", "length", hidden])]
    model = helper.make_model(helper.make_graph(graph.nodes, "minilm", inputs, outputs, graph.tensors),
                              opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 10
    return model


def reference(config, weights, ids):
    """The same forward pass in numpy, one sequence: what both engines must reproduce."""
    heads, erf = config["num_attention_heads"], np.vectorize(math.erf)

    def norm(x, prefix):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * weights[f"{prefix}.weight"] + weights[f"{prefix}.bias"]

    def linear(x, prefix):
        return x @ weights[f"{prefix}.weight"].T + weights[f"{prefix}.bias"]

    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + weights["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for layer in range(config["num_hidden_layers"]):
        prefix = f"encoder.layer.{layer}"
        q, k, v = (linear(x, f"{prefix}.attention.self.{part}").reshape(len(ids), heads, -1) for part in ("query", "key", "value"))
        scores = np.einsum("ihc,jhc->hij", q, k) / math.sqrt(q.shape[-1])
        attention = np.exp(scores - scores.max(-1, keepdims=True))
        attention /= attention.sum(-1, keepdims=True)
        context = np.einsum("hij,jhc->ihc", attention, v).reshape(len(ids), -1)
        x = norm(linear(context, f"{prefix}.attention.output.dense") + x, f"{prefix}.attention.output.LayerNorm")
        y = linear(x, f"{prefix}.intermediate.dense")
        y = y * 0.5 * (1 + erf(y / math.sqrt(2)))
        x = norm(linear(y, f"{prefix}.output.dense") + x, f"{prefix}.output.LayerNorm")
    return x


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def cosine(a, b):
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", default="1x16,1x128,8x128,1x512", help="batch x length, comma separated")
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on each engine and shape")
    arguments = parser.parse_args()

    config = json.loads((arguments.model / "config.json").read_text())
    weights = load_file(arguments.model / "model.safetensors")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        raw, fused, quantised = (pathlib.Path(folder) / f"{name}.onnx" for name in ("raw", "f32", "int8"))
        onnx.save(build(config, weights), raw)
        options = FusionOptions("bert")
        options.enable_embed_layer_norm = False
        best = optimizer.optimize_model(str(raw), "bert", num_heads=config["num_attention_heads"],
                                        hidden_size=config["hidden_size"], optimization_options=options, opt_level=0)
        best.save_model_to_file(str(fused))
        quantize_dynamic(fused, quantised, weight_type=QuantType.QInt8, extra_options={"DefaultTensorType": TensorProto.FLOAT})
        fusions = best.get_fused_operator_statistics()

        rng = np.random.default_rng(1)
        ids = rng.integers(1000, 30000, 48)
        want = reference(config, weights, ids).mean(0)
        for engine, path, floor in (("f32", fused, 0.99999), ("int8", quantised, 0.9)):
            run = session(path, arguments.threads)
            got = run.run(None, {"input_ids": ids[None]})[0][0].mean(0)
            figures[f"{engine}_cosine"] = round(cosine(got, want), 5)
            assert figures[f"{engine}_cosine"] >= floor, f"{engine}: cosine {cosine(got, want)} to the reference"
            for shape in arguments.shapes.split(","):
                batch, length = map(int, shape.split("x"))
                tokens = {"input_ids": rng.integers(1000, 30000, (batch, length))}
                run.run(None, tokens)
                times, end = [], time.perf_counter() + arguments.seconds
                while time.perf_counter() < end or len(times) < 5:
                    start = time.perf_counter()
                    run.run(None, tokens)
                    times.append(time.perf_counter() - start)
                figures[f"{engine}_{shape}"] = round(batch * length / statistics.median(times), 1)
    print(json.dumps({
        "peer": f"onnxruntime {ort.__version__}", "threads": arguments.threads, "unit": "tokens/s",
        "quantization": "dynamic u8s8 (quantize_dynamic, QInt8 weights)",
        "fused": {k: v for k, v in fusions.items() if v}, **figures,
    }))


if __name__ == "__main__":
    main()
