"""What a job would cost at each legal size: accumulation, memory of a rank, time of a step. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_spec import flops, gpus, layout, memory, presets, search, speed
from internlm2_spec.cluster import Cluster
from internlm2_spec.config import Refused, Stage
from internlm2_spec.gpus import GPUS, Gpu
from internlm2_spec.memory import Memory

# A checkpoint holds fp32 weights and AdamW's two moments: docs/checkpoints.md.
STATE_BYTES: Final = 3 * 4


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What a prediction of time rests on. Without a GPU there is none; `mfu` is causal, given by the user."""

    gpu: Gpu | None = None
    mfu: float | None = None
    network_gbit: float | None = None

    def words(self) -> str:
        """Return the sentence that stands above every predicted time."""
        if self.gpu is None:
            return "no step times: name the GPUs with --gpu, as in --gpu h100"
        peak = f"{self.gpu.name} at {self.gpu.flops / 1e12:g} TFLOP/s of dense bf16"
        if self.mfu is not None:
            return (
                f"step times are arithmetic: causal FLOPs of the batch over ranks x {peak} x MFU {self.mfu:g} as given"
            )
        return f"step times and MFU are predictions for {peak}, made as docs/estimate.md says; give --mfu for your own"


@dataclass(frozen=True, slots=True)
class Size:
    """One stage at one legal number of nodes. `seconds` and `mfu` (causal) are None without a GPU."""

    nodes: int
    ranks: int
    data: int
    accumulation: int
    memory: tuple[Memory, ...]  # by rank of the pipeline
    seconds: float | None = None
    mfu: float | None = None

    @property
    def fullest(self) -> Memory:
        return max(self.memory, key=lambda held: held.total)


def known_gpu(name: str | None) -> Gpu | None:
    """Return a GPU by its name in `estimate` or by a part of the driver's: H100-80GB, h100.

    Raises:
        Refused: there is none of this name.
    """
    if name is None:
        return None
    if (gpu := gpus.by_name(name) or gpus.by_device(name)) is None:
        raise Refused("--gpu", wrong=f"{name} is not known", right=f"use one of {', '.join(g.name for g in GPUS)}")
    return gpu


def assumptions(gpu: str | None, mfu: float | None, network_gbit: float | None) -> Assumptions:
    """Check what the user assumes.

    Raises:
        Refused: a fraction that is none, or one that says nothing without a GPU.
    """
    known = known_gpu(gpu)
    if mfu is not None and not 0 < mfu <= 1:
        raise Refused("--mfu", wrong=f"{mfu:g} is no fraction of the peak", right="use above 0 to 1, as in 0.4")
    if known is None and (mfu is not None or network_gbit is not None):
        raise Refused("--gpu", wrong="missing", right=f"name the GPUs: {', '.join(g.name for g in GPUS)}")
    return Assumptions(known, mfu, network_gbit)


def legal_sizes(job: InternLM2Job) -> list[int]:
    """Return the node counts from min to max at which every stage has a legal layout."""
    nodes = job.spec.nodes
    stages = tuple(job.stage_config(index) for index in range(len(job.spec.stages)))
    return layout.legal_sizes(stages, range(nodes.min, nodes.max + 1), nodes.gpus_per_node)


def sizes(stage: Stage, nodes: list[int], gpus_per_node: int, assumed: Assumptions) -> Iterator[Size]:
    """Yield a stage at each of the legal node counts."""
    for count in nodes:
        world = count * gpus_per_node
        seconds, mfu = _step(stage, count, gpus_per_node, assumed)
        ranks = range(stage.parallel.pipeline)
        yield Size(
            nodes=count,
            ranks=world,
            data=layout.degrees(stage.parallel, world).data,
            accumulation=layout.accumulation(stage, world),
            memory=tuple(memory.of_rank(stage, world, memory.CUDA, rank) for rank in ranks),
            seconds=seconds,
            mfu=mfu,
        )


def _step(stage: Stage, nodes: int, gpus_per_node: int, assumed: Assumptions) -> tuple[float | None, float | None]:
    if assumed.gpu is None:
        return None, None
    cluster = Cluster.of(assumed.gpu, nodes, gpus_per_node, assumed.network_gbit)
    if assumed.mfu is None:
        step = speed.predict(stage, cluster)
        return step.seconds, speed.utilisation(stage, cluster, step).causal
    work = stage.global_batch_tokens * flops.per_token_causal(stage.model, stage.sequence_length)
    return work / (cluster.world * assumed.gpu.flops * assumed.mfu), assumed.mfu


def checkpoint_bytes(job: InternLM2Job) -> int:
    return presets.parameters(job.spec.resolved_model()) * STATE_BYTES


def room(assumed: Assumptions) -> int | None:
    """Return the bytes that a rank has, None when the GPU is not known."""
    return None if assumed.gpu is None else search.room(assumed.gpu)


def described(size: Size) -> dict[str, Any]:
    return {
        "nodes": size.nodes,
        "ranks": size.ranks,
        "data": size.data,
        "accumulation": size.accumulation,
        "memoryBytes": [held.parts() | {"total": held.total} for held in size.memory],
        "stepSeconds": size.seconds,
        "mfuCausal": size.mfu,
    }
