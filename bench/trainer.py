"""Training speed on one core against `transformers`' Llama of the same shape.

    python -m bench.trainer [--shapes 20m 100m] [--rounds 15] [--output bench/results/trainer.json]

Both contestants do whole steps (forward, backward, clip, fused AdamW) in fp32 on one thread of one process, in
interleaved rounds, and are timed in CPU seconds: a neighbour on the machine slows both alike and hits neither's clock.
"""

import argparse
import os
import sys
import time
from typing import Any, Final

import torch

from bench import record
from bench.contestants import Place, Work, alone, ours, theirs
from internlm2_spec import flops, presets
from internlm2_spec.config import Model
from internlm2_trainer.compute.peak import peak_flops

SHAPES: Final = {
    "20m": Work(Model(layers=7, hidden=384, heads=6, kv_heads=2, ffn=1344, vocab=8192), 256, batch=4),
    "100m": Work(Model(layers=10, hidden=768, heads=12, kv_heads=4, ffn=2688, vocab=16384), 256, batch=2),
}


def main() -> int:
    """Measure and write the distributions."""
    parser = argparse.ArgumentParser(prog="python -m bench.trainer", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=15, help="one step of each contestant is a round (default 15)")
    record.add_output(parser, "trainer")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with alone(torch.device("cpu")) as place:
        shapes = {name: measure(SHAPES[name], place, options.rounds) for name in options.shapes}
    record.write(options.output, "bench.trainer", {"shapes": shapes})
    for name, result in shapes.items():
        print(f"{name}: {result['ratio']['median']:.2f} x transformers, MFU {result['mfu']:.0%} of the GEMM peak")
    return 0


def measure(work: Work, place: Place, rounds: int) -> dict[str, Any]:
    """Return tokens per CPU second of both, their ratio round by round, and our best step's MFU."""
    contestants = {"internlm2": ours(work, place), "transformers": theirs(work, place)}
    generator = torch.Generator().manual_seed(0)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    load = os.getloadavg()[0]
    for number in range(rounds + 1):
        tokens = torch.randint(work.model.vocab, (work.batch, work.sequence_length), generator=generator)
        for name, step in contestants.items():
            start = time.process_time()
            step(tokens)
            seconds = time.process_time() - start
            if number:  # the first round warms up
                speeds[name].append(work.tokens / seconds)
        told = ", ".join(f"{name} {each[-1]:.0f} tokens/s" for name, each in speeds.items() if each)
        print(f"round {number}/{rounds}: {told or 'warm'}", file=sys.stderr)
    peak = peak_flops(place.device, warn=False)
    per_token = flops.per_token_causal(work.model, work.sequence_length)
    return {
        "parameters": presets.parameters(work.model),
        "tokensPerCpuSecond": {name: record.spread(values) for name, values in speeds.items()},
        "ratio": record.spread([a / b for a, b in zip(speeds["internlm2"], speeds["transformers"], strict=True)]),
        "mfu": max(speeds["internlm2"]) * per_token / peak if peak else None,
        "load": load,
    }


if __name__ == "__main__":
    sys.exit(main())
