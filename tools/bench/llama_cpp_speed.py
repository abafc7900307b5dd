#!/usr/bin/env python3
"""Measures llama.cpp on one GGUF: prefill and decode speed, one JSON object per line, as `examples/engine_speed.rs` prints for Glint.

usage: llama_cpp_speed.py MODEL.gguf THREADS ROUNDS

Each round measures every case once; the other engine's rounds run in between, so that a noisy neighbour hits both.
"""
import ctypes
import json
import random
import statistics
import sys
import time

import llama_cpp

PROMPT_TOKENS = 512
CONTEXT_TOKENS = 128
DECODE_STEPS = 24
SEQUENCES_MAX = 8


class Engine:
    """One context with room for eight sequences."""

    def __init__(self, path, threads):
        self.silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
        llama_cpp.llama_log_set(self.silent, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = 8192
        params.n_batch = params.n_ubatch = PROMPT_TOKENS
        params.n_seq_max = SEQUENCES_MAX
        params.n_threads = params.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, params)
        self.memory = llama_cpp.llama_get_memory(self.context)
        vocabulary = llama_cpp.llama_model_get_vocab(self.model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(vocabulary)
        self.batch = llama_cpp.llama_batch_init(PROMPT_TOKENS, 0, 1)
        self.random = random.Random(0)

    def step(self, rows):
        """Computes rows of (position, sequence, wants logits), each with a random token."""
        self.batch.n_tokens = len(rows)
        for index, (position, sequence, logits) in enumerate(rows):
            self.batch.token[index] = self.random.randrange(self.vocab_size)
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = sequence
            self.batch.logits[index] = logits
        status = llama_cpp.llama_decode(self.context, self.batch)
        if status != 0:
            sys.exit(f"llama_decode failed with {status}")
        llama_cpp.llama_synchronize(self.context)

    def prefill(self, tokens, sequence=0):
        self.step([(position, sequence, position == tokens - 1) for position in range(tokens)])

    def clear(self):
        llama_cpp.llama_memory_clear(self.memory, True)


def prefill_speed(engine):
    engine.clear()
    begin = time.perf_counter()
    engine.prefill(PROMPT_TOKENS)
    return PROMPT_TOKENS / (time.perf_counter() - begin)


def decode_speed(engine, sequences):
    engine.clear()
    for sequence in range(sequences):
        engine.prefill(CONTEXT_TOKENS, sequence)
    times = []
    for step in range(DECODE_STEPS):
        begin = time.perf_counter()
        engine.step([(CONTEXT_TOKENS + step, sequence, True) for sequence in range(sequences)])
        times.append(time.perf_counter() - begin)
    return sequences / statistics.median(times)


def main():
    path, threads, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    engine = Engine(path, threads)
    engine.prefill(32)
    for _ in range(rounds):
        for case, speed in (
            ("prefill", prefill_speed(engine)),
            ("decode-1", decode_speed(engine, 1)),
            ("decode-8", decode_speed(engine, 8)),
        ):
            print(json.dumps({"case": case, "tokens_per_s": speed}), flush=True)
        # The other side's turn comes when this line is read, and ours when one is sent.
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    main()
