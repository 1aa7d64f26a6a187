"""Speed, memory and the longest sequence on one GPU, against `transformers` on the same card in the same run.

Run by `make gpu`; writes bench/results/gpu.json and prints a table. Contestants take turns, round after round. Each
turn allocates anew, because two models of 1.8B with their optimizers do not fit on one card, warms up, and times
whole steps by the wall clock of the device.
"""

import argparse
import dataclasses
import gc
import importlib.metadata
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import torch

from bench import record
from bench.contestants import Contestant, Place, Work, alone, contestants
from bench.longest import longest
from internlm2_spec import config, flops, presets
from internlm2_spec.gpus import GIB
from internlm2_trainer.compute.peak import peak_flops

T = TypeVar("T")

NO_DEVICE: Final = "no CUDA device here, so nothing was tested or measured; run this where nvidia-smi shows one"
NO_TRANSFORMERS: Final = "transformers is not installed, so nothing is compared: pip install 'transformers>=5,<6'"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one turn saw: seconds of each timed step, and the most bytes that were allocated (0 on a CPU)."""

    seconds: list[float]
    peak_bytes: int


def main() -> int:
    """Measure, print and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="internlm2-1.8b", choices=presets.PRESETS, help="default internlm2-1.8b")
    parser.add_argument("--sequence-length", type=int, default=4096, help="of the speed comparison (default 4096)")
    parser.add_argument("--batch", type=int, default=1, help="sequences of a step of it (default 1)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contestant (default 3)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a turn (default 5)")
    parser.add_argument("--up-to", type=int, default=2**18, help="longest sequence to try (default 262144)")
    record.add_output(parser, "gpu")
    options = parser.parse_args()
    limit = options.up_to // options.sequence_length * options.sequence_length
    if not torch.cuda.is_available():
        print(f"bench.gpu: {NO_DEVICE}", file=sys.stderr)
        return 2
    if version("transformers") is None:
        print(f"bench.gpu: {NO_TRANSFORMERS}", file=sys.stderr)
    work = Work(presets.PRESETS[options.model], options.sequence_length, options.batch)
    with alone(torch.device("cuda", 0)) as place:
        found = measure(contestants(), work, place, rounds=options.rounds, steps=options.steps, limit=limit)
    results = {"machine": machine(place.device), "model": options.model, **found}
    record.write(options.output, "bench.gpu", results)
    print("\n".join(table(results)))
    return 0


def measure(
    found: list[Contestant], work: Work, place: Place, *, rounds: int, steps: int, limit: int
) -> dict[str, Any]:
    """Return speeds without and with full recompute, and the longest sequences up to `limit` with it."""
    modes: tuple[config.Recompute, ...] = ("None", "Full")
    works = {mode: dataclasses.replace(work, recompute=mode) for mode in modes}
    speed = {mode: compare(found, each, place, rounds=rounds, steps=steps) for mode, each in works.items()}
    lengths = {each.name: longest_of(each, works["Full"], place, limit=limit) for each in found}
    theirs = [each.name for each in found if each.name.startswith("transformers")]
    return {
        "parameters": presets.parameters(work.model),
        "batch": {"sequences": work.batch, "sequenceLength": work.sequence_length},
        "transformers": theirs or None,
        "speedByRecompute": speed,
        "longestSequence": lengths,
    }


def compare(found: list[Contestant], work: Work, place: Place, *, rounds: int, steps: int) -> dict[str, Any]:
    """Return by contestant its speed over all turns, MFU and peak; None for one that runs out of memory."""
    turns: dict[str, list[Turn | None]] = {each.name: [] for each in found}
    for number in range(rounds):
        for each in found:
            turns[each.name].append(turn := attempt(partial(take_turn, each, work, place, steps)))
            said = f"{work.tokens / min(turn.seconds):.0f} tokens/s" if turn else "out of memory"
            print(f"recompute {work.recompute}, round {number + 1}/{rounds}: {each.name} {said}", file=sys.stderr)
    peak = peak_flops(place.device, warn=True)
    return {name: summary(work, [turn for turn in taken if turn], peak) for name, taken in turns.items()}


def take_turn(contestant: Contestant, work: Work, place: Place, steps: int, *, warm_up: int = 2) -> Turn:
    """Allocate, warm up and time `steps` steps.

    Raises:
        torch.OutOfMemoryError: it does not fit.
    """
    cuda = place.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    step, seconds = contestant.prepare(work, place), []
    generator = torch.Generator().manual_seed(0)
    for number in range(warm_up + steps):
        tokens = torch.randint(work.model.vocab, (work.batch, work.sequence_length), generator=generator)
        tokens = tokens.to(place.device)
        synchronize(place.device)
        started = time.perf_counter()
        step(tokens)
        synchronize(place.device)
        if number >= warm_up:
            seconds.append(time.perf_counter() - started)
    return Turn(seconds, torch.cuda.max_memory_allocated() if cuda else 0)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def attempt(work: Callable[[], T]) -> T | None:
    """Return what `work` returns, or None if the device has not enough memory; all it allocated is free again."""
    try:
        return work()
    except torch.OutOfMemoryError:
        return None
    finally:
        # FSDP's modules refer to one another in circles.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def summary(work: Work, turns: list[Turn], peak: float | None) -> dict[str, Any] | None:
    """Return the distribution of tokens/s, and MFU of the median as `internlm2_spec.flops` counts it."""
    if not turns:
        return None
    speeds = [work.tokens / seconds for turn in turns for seconds in turn.seconds]
    median = statistics.median(speeds)
    causal = flops.per_token_causal(work.model, work.sequence_length)
    full = flops.per_token_full(work.model, work.sequence_length)
    return {
        "tokensPerSecond": {"n": len(speeds), "median": median, "min": min(speeds), "max": max(speeds)},
        "mfuCausal": median * causal / peak if peak else None,
        "mfuFull": median * full / peak if peak else None,
        "peakGib": round(max(turn.peak_bytes for turn in turns) / GIB, 2),
    }


def longest_of(contestant: Contestant, work: Work, place: Place, *, limit: int) -> dict[str, Any] | None:
    """Return the longest sequence that fits, a multiple of the work's, with speed and peak; None if none does."""
    turns: dict[int, Turn] = {}

    def fits(length: int) -> bool:
        one = dataclasses.replace(work, sequence_length=length, batch=1)
        # One before it: an optimizer may allocate its moments in the first step.
        turn = attempt(lambda: take_turn(contestant, one, place, steps=1, warm_up=1))
        print(f"{contestant.name}: {length} tokens {'fit' if turn else 'do not fit'}", file=sys.stderr)
        if turn:
            turns[length] = turn
        return turn is not None

    if not (length := longest(fits, start=work.sequence_length, limit=limit)):
        return None
    one = dataclasses.replace(work, sequence_length=length, batch=1)
    found = summary(one, [turns[length]], peak_flops(place.device, warn=False))
    return {"tokens": length, **(found or {})}


def machine(device: torch.device) -> dict[str, Any]:
    """Return the card, its driver, and the versions that matter."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else "cpu",
        "memoryGib": round(torch.cuda.get_device_properties(device).total_memory / GIB, 1) if cuda else None,
        "driver": driver() if cuda else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "flash-attn": version("flash-attn"),
        "python": platform.python_version(),
    }


def driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def table(results: dict[str, Any]) -> list[str]:
    """Return the results as lines for a person."""
    lines = [f"{results['model']} on {results['machine']['device']}"]
    for mode, found in results["speedByRecompute"].items():
        lines += [f"  {f'recompute {mode}':16} {name:32} {_row(one)}" for name, one in found.items()]
    for name, one in results["longestSequence"].items():
        length = f"{one['tokens']} tokens" if one else "none"
        lines.append(f"  {'longest sequence':16} {name:32} {length}: {_row(one)}")
    return lines


def _row(one: dict[str, Any] | None) -> str:
    if one is None:
        return "out of memory"
    mfu = "unknown" if one["mfuCausal"] is None else f"{one['mfuCausal']:.1%} causal, {one['mfuFull']:.1%} full"
    return f"{one['tokensPerSecond']['median']:.0f} tokens/s, MFU {mfu}, peak {one['peakGib']:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
