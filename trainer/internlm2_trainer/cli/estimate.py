"""`estimate`: what a stage costs before it runs. Imports no torch."""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from internlm2_spec import config, flops, gpus, layout, memory, presets, search
from internlm2_spec.cluster import Cluster
from internlm2_spec.config import Refused, Stage
from internlm2_spec.contract import ExitCode
from internlm2_spec.gpus import GIB, GPUS, Gpu
from internlm2_spec.memory import Memory
from internlm2_spec.search import Candidate

Rows = list[tuple[str, ...]]

COLUMNS = (
    "tensor", "pipeline", "context", "zero", "micro-batch", "recompute", "GiB", "MFU causal", "MFU full", "why",
)  # fmt: skip


def main(arguments: list[str]) -> int:
    """Print the estimate, or the best layouts, and return an exit code of the contract."""
    options = _parse(arguments)
    try:
        stage, gpu = config.read(options.config), _gpu(options.gpu)
        if options.search:
            if gpu is None:
                raise Refused("--gpu", wrong="missing", right=f"use one of {_names()}")
            report, text = _search(stage, _cluster(gpu, options), options.top)
        else:
            report, text = _estimate(stage, gpu, options)
    except Refused as error:
        print(error, file=sys.stderr)
        return ExitCode.CONFIG
    print(json.dumps(report, indent=1) if options.json else text)
    return ExitCode.DONE


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="internlm2_trainer estimate",
        description="Say what a stage costs: memory of the fullest rank, FLOPs, and on a known GPU the time of a step.",
    )
    parser.add_argument("--config", required=True, help="JSON file of the stage, as in the job's ConfigMap")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--ranks", type=int, help="how many ranks (default 1)")
    size.add_argument("--nodes", type=int, help="how many nodes, of --gpus-per-node ranks")
    parser.add_argument("--gpus-per-node", type=int, default=8, help="ranks of a node (default 8)")
    parser.add_argument("--gpu", metavar="TYPE", help=f"one of {_names()}")
    parser.add_argument("--network-gbit", type=float, help="Gbit/s of a node's network (default: the vendor's system)")
    parser.add_argument("--cpu", action="store_true", help="count fp32 as on a CPU, not bf16 as on a GPU")
    parser.add_argument("--search", action="store_true", help="list the best layouts instead of the stage's own")
    parser.add_argument("--top", type=int, default=10, help="how many layouts --search lists (default 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser.parse_args(arguments)


def _names() -> str:
    return ", ".join(gpu.name for gpu in GPUS)


def _gpu(name: str | None) -> Gpu | None:
    if name is None:
        return None
    if (gpu := gpus.by_name(name)) is None:
        raise Refused("--gpu", wrong=f"{name} is not known", right=f"use one of {_names()}")
    return gpu


def _cluster(gpu: Gpu, options: argparse.Namespace) -> Cluster:
    """Return the cluster that the options describe; `--ranks` fill nodes, or a part of one."""
    ranks = options.nodes * options.gpus_per_node if options.nodes else options.ranks or 1
    per_node = min(ranks, options.gpus_per_node)
    if ranks < 1 or ranks % per_node:
        raise Refused("--ranks", wrong=f"{ranks} do not fill nodes of {per_node}", right="use --nodes")
    return Cluster.of(gpu, ranks // per_node, per_node, options.network_gbit)


def _estimate(stage: Stage, gpu: Gpu | None, options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    world = options.nodes * options.gpus_per_node if options.nodes else options.ranks or 1
    layout.check(stage, world)
    held = memory.of_stage(stage, world, memory.CPU if options.cpu else memory.CUDA)
    report: dict[str, Any] = {
        "ranks": world,
        "parameters": presets.parameters(stage.model),
        "microSteps": layout.accumulation(stage, world),
        "memoryBytes": held.parts() | {"total": held.total},
        "flopsPerTokenCausal": flops.per_token_causal(stage.model, stage.sequence_length),
        "flopsPerTokenFull": flops.per_token_full(stage.model, stage.sequence_length),
    }
    text = [_heading(stage, report), _memory_table(held)]
    if gpu is not None:
        candidate = search.evaluate(stage, _cluster(gpu, options))
        report |= {"gpu": gpu.name, "roomBytes": candidate.room, "fits": candidate.fits} | _prediction(candidate)
        text += [_room(candidate), _step_table(candidate)]
    return report, "\n\n".join(text)


def _search(stage: Stage, cluster: Cluster, top: int) -> tuple[dict[str, Any], str]:
    found = search.search(stage, cluster)
    if not found:
        candidate = search.smallest(stage, cluster)
        raise Refused(
            "--nodes", wrong=f"no layout fits {cluster.world} x {cluster.gpu.name}"
            + (f"; the smallest {search.reason(candidate)}" if candidate else ""),
            right="use more nodes, a shorter sequenceLength, or another globalBatchTokens",
        )  # fmt: skip
    report = {"gpu": cluster.gpu.name, "ranks": cluster.world, "layouts": [_layout(one) for one in found[:top]]}
    rows = [COLUMNS, *(_row(one) for one in found[:top])]
    heading = f"{len(found)} layouts fit {cluster.world} x {cluster.gpu.name}; predicted, not measured:"
    return report, f"{heading}\n\n{_table(rows)}"


def _row(candidate: Candidate) -> tuple[str, ...]:
    parallel, use = candidate.stage.parallel, candidate.use
    pipeline = f"{parallel.pipeline} {parallel.schedule}" if parallel.pipeline > 1 else "1"
    context = f"{parallel.context} ulysses {parallel.ulysses}" if parallel.context > 1 else "1"
    zero = f"{parallel.zero.stage} over {parallel.zero.shard}"
    return (
        str(parallel.tensor), pipeline, context, zero, str(parallel.micro_batch), parallel.recompute,
        f"{candidate.memory.total / GIB:.1f}", f"{use.causal:.1%}", f"{use.full:.1%}", search.reason(candidate),
    )  # fmt: skip


def _layout(candidate: Candidate) -> dict[str, Any]:
    parallel = json.loads(config.to_json(candidate.stage))["parallel"]
    return {"parallel": parallel, "memoryBytes": candidate.memory.total} | _prediction(candidate)


def _prediction(candidate: Candidate) -> dict[str, Any]:
    return {
        "stepSeconds": candidate.step.seconds,
        "stepParts": candidate.step.parts(),
        "tokensPerSecond": candidate.use.tokens_per_second,
        "mfuCausal": candidate.use.causal,
        "mfuFull": candidate.use.full,
        "why": search.reason(candidate),
    }


def _heading(stage: Stage, report: Mapping[str, Any]) -> str:
    causal, full = report["flopsPerTokenCausal"], report["flopsPerTokenFull"]
    batch = f"{report['microSteps']} micro-steps of {stage.parallel.micro_batch} x {stage.sequence_length} tokens"
    return (
        f"{report['parameters'] / 1e9:.3f}B parameters on {report['ranks']} ranks, {batch} a data rank\n"
        f"GFLOP a token: {causal / 1e9:.2f} with causal attention, {full / 1e9:.2f} with full attention"
    )


MEANING = {
    "weights": "fp32 shards",
    "gradients": "reduced, fp32 shards",
    "optimizer": "two fp32 moments",
    "gathered": "weights as FSDP has put them together",
    "unreduced": "gradients before their reduction",
    "activations": "saved for the backward pass",
    "working": "logits at the loss, or one layer's backward",
    "buffers": "messages of FSDP",
}


def _memory_table(held: Memory) -> str:
    rows: Rows = [("memory of the fullest rank", "GiB", "")]
    rows += [(name, f"{size / GIB:.2f}", MEANING[name]) for name, size in held.parts().items()]
    return _table([*rows, ("total", f"{held.total / GIB:.2f}", "at the fullest moment of a step")])


def _room(candidate: Candidate) -> str:
    verdict = "fits" if candidate.fits else search.reason(candidate)
    return f"{candidate.cluster.gpu.name} has room for {candidate.room / GIB:.1f} GiB: {verdict}"


def _step_table(candidate: Candidate) -> str:
    step, use = candidate.step, candidate.use
    rows: Rows = [("step, predicted", "seconds", "")]
    rows += [(name, f"{seconds:.3f}", f"{seconds / step.seconds:.1%}") for name, seconds in step.parts().items()]
    rows.append(("total", f"{step.seconds:.3f}", f"{use.tokens_per_second:,.0f} tokens/s"))
    return f"{_table(rows)}\n\nMFU {use.causal:.1%} causal, {use.full:.1%} full, predicted"


def _table(rows: Iterable[tuple[str, ...]]) -> str:
    """Return rows as aligned columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
