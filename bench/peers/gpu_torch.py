#!/usr/bin/env python3
"""PyTorch on the shapes of `gpu --only large`, for G4: bf16 products, MiniLM-shaped encoder, flash attention.

  gpu_torch.py [--seconds 2]

Needs torch with CUDA and nothing else; weights are random, because only time is measured. Prints one JSON object, or says on
standard error why there is none and exits with 3. Best of the repetitions, as the other side measures.
"""
import argparse
import json
import sys
import time

TEXTS, TOKENS, WIDTH, HEADS, INNER, LAYERS, VOCABULARY = 256, 128, 384, 12, 1536, 6, 30522


def best(torch, work, seconds):
    work()
    torch.cuda.synchronize()
    least, end, count = float("inf"), time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
        count += 1
    return least


def graphed(torch, work):
    """`work` as one CUDA graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def encoder(torch):
    """A BERT encoder of MiniLM's shape in bf16: embeddings, six blocks, mean pooling."""
    f = torch.nn.functional
    make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02
    table, places = make(VOCABULARY, WIDTH), make(TOKENS, WIDTH)
    blocks = [
        [make(3 * WIDTH, WIDTH), make(3 * WIDTH), make(WIDTH, WIDTH), make(WIDTH), make(INNER, WIDTH), make(INNER),
         make(WIDTH, INNER), make(WIDTH), make(WIDTH), make(WIDTH), make(WIDTH), make(WIDTH)]
        for _ in range(LAYERS)
    ]
    tokens = torch.randint(0, VOCABULARY, (TEXTS, TOKENS), device="cuda")

    def run():
        x = f.layer_norm(table[tokens] + places, (WIDTH,))
        for qkv, qkv_b, out, out_b, up, up_b, down, down_b, g1, b1, g2, b2 in blocks:
            q, k, v = f.linear(x, qkv, qkv_b).view(TEXTS, TOKENS, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
            seen = f.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(TEXTS, TOKENS, WIDTH)
            x = f.layer_norm(x + f.linear(seen, out, out_b), (WIDTH,), g1, b1)
            x = f.layer_norm(x + f.linear(f.gelu(f.linear(x, up, up_b)), down, down_b), (WIDTH,), g2, b2)
        return f.normalize(x.mean(1), dim=-1)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2)
    seconds = parser.parse_args().seconds
    try:
        import torch
    except ImportError:
        print("gpu_torch.py: torch is not installed here", file=sys.stderr)
        sys.exit(3)
    if not torch.cuda.is_available():
        print("gpu_torch.py: torch finds no CUDA device", file=sys.stderr)
        sys.exit(3)
    torch.set_grad_enabled(False)
    size = 8192
    x, w = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    gemm = best(torch, lambda: x @ w.T, seconds)
    figures = {"gemm_bf16": {"seconds": gemm, "tera_operations_per_s": 2 * size**3 / gemm / 1e12}}
    try:
        codes, weights = (torch.randint(-127, 128, (size, size), device="cuda", dtype=torch.int8) for _ in range(2))
        int8 = best(torch, lambda: torch._int_mm(codes, weights.T), seconds)
        figures["gemm_int8"] = {"seconds": int8, "tera_operations_per_s": 2 * size**3 / int8 / 1e12}
    except (AttributeError, RuntimeError) as error:
        figures["gemm_int8"] = {"missing": str(error)[:200]}
    run = graphed(torch, encoder(torch))
    minilm = best(torch, run, seconds)
    figures["minilm_bf16"] = {"seconds": minilm, "tokens_per_s": TEXTS * TOKENS / minilm}
    q, k, v = (torch.randn(4, 16, 2048, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        attention = best(torch, lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v), seconds)
    figures["attention_bf16"] = {
        "seconds": attention,
        "tera_operations_per_s": 4 * 4 * 2048**2 * 1024 / attention / 1e12,
    }
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name(), **figures}))


if __name__ == "__main__":
    main()
