"""Training speed on one core against `transformers`' Llama of the same shape.

    python -m bench.trainer [--shapes 20m 100m] [--rounds 15] [--output bench/results/trainer.json]

Both contestants do whole steps (forward, backward, clip, fused AdamW) in fp32 on one thread of one process, in
interleaved rounds, and are timed in CPU seconds: a neighbour on the machine slows both alike and hits neither's clock.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import HashStore

from bench import record
from internlm2_spec import config, flops, presets
from internlm2_trainer.compute import parallelize
from internlm2_trainer.compute.mesh import open_mesh
from internlm2_trainer.compute.optim import AdamW
from internlm2_trainer.compute.parallelize import LocalModel
from internlm2_trainer.compute.peak import peak_flops

SEQUENCE: Final = 256
Step = Callable[[Tensor, Tensor], None]


@dataclass(frozen=True, slots=True)
class Shape:
    model: config.Model
    batch: int


SHAPES: Final = {
    "20m": Shape(config.Model(layers=7, hidden=384, heads=6, kv_heads=2, ffn=1344, vocab=8192), batch=4),
    "100m": Shape(config.Model(layers=10, hidden=768, heads=12, kv_heads=4, ffn=2688, vocab=16384), batch=2),
}
OPTIMIZER: Final = config.Optimizer()


def main() -> int:
    """Measure and write the distributions."""
    parser = argparse.ArgumentParser(prog="python -m bench.trainer", description=__doc__)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    parser.add_argument("--rounds", type=int, default=15, help="one step of each contestant is a round (default 15)")
    record.add_output(parser, "trainer")
    options = parser.parse_args()
    alone()
    shapes = {name: measure(SHAPES[name], options.rounds) for name in options.shapes}
    record.write(options.output, "bench.trainer", {"shapes": shapes})
    for name, result in shapes.items():
        print(f"{name}: {result['ratio']['median']:.2f} x transformers, MFU {result['mfu']:.0%} of the GEMM peak")
    dist.destroy_process_group()
    return 0


def alone() -> None:
    """Make this process the only rank, on one thread."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)


def measure(shape: Shape, rounds: int) -> dict[str, Any]:
    """Return tokens per CPU second of both, their ratio round by round, and our best step's MFU."""
    contestants = {"internlm2": ours(shape), "transformers": theirs(shape)}
    generator = torch.Generator().manual_seed(0)
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    load = os.getloadavg()[0]
    for number in range(rounds + 1):
        tokens, labels = torch.randint(0, shape.model.vocab, (2, shape.batch, SEQUENCE), generator=generator)
        for name, step in contestants.items():
            start = time.process_time()
            step(tokens, labels)
            seconds = time.process_time() - start
            if number:  # the first round warms up
                speeds[name].append(shape.batch * SEQUENCE / seconds)
        print(
            f"round {number}/{rounds}: " + ", ".join(f"{n} {s[-1]:.0f}" for n, s in speeds.items() if s),
            file=sys.stderr,
        )
    peak = peak_flops(torch.device("cpu"), warn=False)
    per_token = flops.per_token_causal(shape.model, SEQUENCE)
    return {
        "parameters": presets.parameters(shape.model),
        "tokensPerCpuSecond": {name: record.spread(values) for name, values in speeds.items()},
        "ratio": record.spread([a / b for a, b in zip(speeds["internlm2"], speeds["transformers"], strict=True)]),
        "mfu": max(speeds["internlm2"]) * per_token / peak if peak else None,
        "load": load,
    }


def assemble(shape: Shape) -> tuple[LocalModel, AdamW]:
    """Return the trainer's model of a shape and its optimizer, on one rank."""
    stage = config.Stage(
        name="bench", model=shape.model, data=config.Data("file:///unused"),
        checkpoint=config.Checkpoint("file:///unused"), sequence_length=SEQUENCE,
        global_batch_tokens=shape.batch * SEQUENCE, steps=1, parallel=config.Parallel(micro_batch=shape.batch),
    )  # fmt: skip
    model = parallelize.build(stage, open_mesh(stage.model, stage.parallel, "cpu"), torch.device("cpu"))
    return model, AdamW(model.parameters(), OPTIMIZER)


def ours(shape: Shape) -> Step:
    """Return a whole step of the trainer's model and optimizer, its one all-reduce included."""
    return step_of(shape, *assemble(shape))


def step_of(shape: Shape, model: LocalModel, optimizer: AdamW) -> Step:
    """Return a whole step of what was assembled."""
    positions = torch.arange(SEQUENCE).expand(shape.batch, SEQUENCE)
    documents = torch.zeros_like(positions)

    def step(tokens: Tensor, labels: Tensor) -> None:
        loss = model.whole(tokens, positions, documents, labels) / labels.numel()
        loss.backward()
        totals = optimizer.reduce(loss, copies=1, stop=False)
        optimizer.step(OPTIMIZER.lr, totals.gradient_norm)

    return step


def theirs(shape: Shape) -> Step:
    """Return a whole step of LlamaForCausalLM with the attention and the optimizer that are fastest here."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = shape.model
    settings = LlamaConfig(
        vocab_size=sizes.vocab, hidden_size=sizes.hidden, intermediate_size=sizes.ffn,
        num_hidden_layers=sizes.layers, num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads,
        tie_word_embeddings=False, attn_implementation="sdpa", use_cache=False,
    )  # fmt: skip
    model = LlamaForCausalLM(settings).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=OPTIMIZER.lr, betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        weight_decay=OPTIMIZER.weight_decay, fused=True,
    )  # fmt: skip

    def step(tokens: Tensor, labels: Tensor) -> None:
        model(input_ids=tokens, labels=labels).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    sys.exit(main())
