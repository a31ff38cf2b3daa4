#!/usr/bin/env python3
"""llama.cpp on a GGUF file: the peer of the decoder speed line (L3).

  decoder_llama.py MODEL.gguf [--threads 2] [--prompt 32] [--prefill 512] [--steps 48] [--together 16]

Through llama-cpp-python's binding of the C interface, built for this machine's own instructions (scripts/setup.sh peers). Times a
prompt of `prefill` tokens, then `steps` single tokens behind a prompt of `prompt` tokens: one sequence, and `together` of them. The
model is read into memory once before anything is timed. Prints one JSON object with tokens a second, the best of three for the
prompt and the mean over the steps for decoding.
"""
import argparse
import ctypes
import json
import random
import time

import llama_cpp as ll


class Model:
    def __init__(self, path, threads, sequences, context):
        ll.llama_log_set(SILENT, ctypes.c_void_p(0))
        ll.llama_backend_init()
        params = ll.llama_model_default_params()
        params.use_mmap = False
        self.model = ll.llama_model_load_from_file(path.encode(), params)
        if not self.model:
            raise SystemExit(f"llama.cpp does not load {path}")
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))
        params = ll.llama_context_default_params()
        params.n_ctx = context * sequences
        params.n_batch = params.n_ubatch = 512
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        self.context = ll.llama_init_from_model(self.model, params)
        if not self.context:
            raise SystemExit("llama.cpp gives no context")
        self.batch = ll.llama_batch_init(512, 0, 1)

    def clear(self):
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def run(self, rows):
        """Runs rows of (token, position, sequence, whether logits are wanted); returns when they are done."""
        self.batch.n_tokens = len(rows)
        for at, (token, position, sequence, wants) in enumerate(rows):
            self.batch.token[at] = token
            self.batch.pos[at] = position
            self.batch.n_seq_id[at] = 1
            self.batch.seq_id[at][0] = sequence
            self.batch.logits[at] = wants
        if ll.llama_decode(self.context, self.batch) != 0:
            raise SystemExit("llama.cpp fails to run a batch")
        ll.llama_synchronize(self.context)
        if any(row[3] for row in rows):
            assert ll.llama_get_logits(self.context)[0] == ll.llama_get_logits(self.context)[0], "a logit is a number"


@ll.llama_log_callback
def SILENT(_level, _text, _data):
    pass


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    for name, otherwise in [("threads", 2), ("prompt", 32), ("prefill", 512), ("steps", 48), ("together", 16)]:
        parser.add_argument(f"--{name}", type=int, default=otherwise)
    arguments = parser.parse_args()
    context = max(arguments.prefill, arguments.prompt + arguments.steps + 1)
    draw = random.Random(3)
    model = Model(arguments.model, arguments.threads, arguments.together, context)

    def tokens(count):
        return [draw.randrange(model.vocabulary) for _ in range(count)]

    def prompt(sequence, count):
        model.run([(token, at, sequence, at == count - 1) for at, token in enumerate(tokens(count))])

    best = float("inf")
    for _ in range(3):
        model.clear()
        begin = time.perf_counter()
        prompt(0, arguments.prefill)
        best = min(best, time.perf_counter() - begin)

    def decode(sequences):
        model.clear()
        for sequence in range(sequences):
            prompt(sequence, arguments.prompt)

        def step(nth):
            position = arguments.prompt + nth
            rows = enumerate(tokens(sequences))
            model.run([(token, position, sequence, True) for sequence, token in rows])

        step(0)
        begin = time.perf_counter()
        for nth in range(arguments.steps):
            step(1 + nth)
        return sequences * arguments.steps / (time.perf_counter() - begin)

    print(json.dumps({
        "llama_cpp_python": ll.__version__,
        "system": ll.llama_print_system_info().decode(),
        "threads": arguments.threads,
        "prefill_tokens_per_s": arguments.prefill / best,
        "decode_1_tokens_per_s": decode(1),
        "decode_together_tokens_per_s": decode(arguments.together),
        "together": arguments.together,
    }))


if __name__ == "__main__":
    main()
