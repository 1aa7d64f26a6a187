"""The job and the cluster that a question is about."""

from dataclasses import dataclass

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.spec import Spec
from internlm2_operator.simulate.cluster import START
from internlm2_operator.simulate.faults import LLAMA3, Mix
from internlm2_operator.simulate.simulation import Setup
from internlm2_operator.simulate.times import Times
from internlm2_operator.simulate.trace import Occurrence, draw
from internlm2_operator.simulate.training import Pace
from internlm2_spec.config import Refused, refuse


@dataclass(frozen=True, slots=True)
class Scenario:
    """What a person asks. `trace` None draws one from `mix`.

    The default step of 6.2 s is Llama 3 405B's: 6 x 405 G x 16 Mi tokens at 400 TFLOP/s on each of 16,384 GPUs.
    """

    nodes: int = 2048
    min_nodes: int | None = None
    gpus_per_node: int = 8
    spares: int = 16
    free_nodes: int = 0
    days: float = 54
    mix: Mix = LLAMA3
    trace: tuple[Occurrence, ...] | None = None
    step_seconds: float = 6.2
    every_steps: int = 50
    memory_every_steps: int = 10
    replicas: bool = True

    def __post_init__(self) -> None:
        least = self.min_nodes or self.nodes
        refuse(
            ("--nodes", 1 <= self.nodes <= 5000, f"{self.nodes}", "use 1 to 5000"),
            ("--min-nodes", 1 <= least <= self.nodes, f"{least}", f"use 1 to --nodes {self.nodes}"),
            ("--gpus-per-node", 1 <= self.gpus_per_node <= 64, f"{self.gpus_per_node}", "use 1 to 64"),
            ("--spares", 0 <= self.spares <= 64, f"{self.spares}", "use 0 to 64"),
            ("--free-nodes", self.free_nodes >= 0, f"{self.free_nodes}", "use 0 or more"),
            ("--days", 0 < self.days <= 3650, f"{self.days}", "use more than 0, at most 3650"),
            ("--step-seconds", self.step_seconds > 0, f"{self.step_seconds}", "use more than 0"),
            ("--every-steps", self.every_steps >= 1, f"{self.every_steps}", "use 1 or more"),
            ("--memory-every-steps", self.memory_every_steps >= 0, f"{self.memory_every_steps}", "use 0 or more"),
        )

    @property
    def all_nodes(self) -> int:
        return self.nodes + self.spares + self.free_nodes


def job(scenario: Scenario) -> InternLM2Job:
    """Return a job of the asked size, whose layout is legal there; what it trains decides nothing here.

    One sample a GPU and step: a size is legal where it divides `--nodes`.
    """
    tokens = 2
    stage = {
        "name": "pretrain",
        "data": {"url": "file:///data"},
        "sequenceLength": tokens,
        "globalBatchTokens": tokens * scenario.nodes * scenario.gpus_per_node,
        "steps": 99_999_999,
        "parallel": {},
    }
    spec = {
        "model": {"preset": "internlm2-tiny"},
        "checkpoint": {
            "url": "file:///checkpoints",
            "everySteps": scenario.every_steps,
            "memoryEverySteps": scenario.memory_every_steps,
        },
        "nodes": {
            "min": scenario.min_nodes or scenario.nodes,
            "max": scenario.nodes,
            "spares": scenario.spares,
            "gpusPerNode": scenario.gpus_per_node,
        },
        "stages": [stage],
    }
    return InternLM2Job(
        name="simulated",
        namespace="default",
        uid="0",
        generation=1,
        resource_version="1",
        created=START,
        spec=Spec.model_validate(spec),
    )


def setup(scenario: Scenario, times: Times, seed: int) -> Setup:
    """Return what is simulated under one seed.

    Raises:
        Refused: the trace names a node that the cluster does not have.
    """
    trace = scenario.trace
    if trace is None:
        trace = draw(
            scenario.mix,
            nodes=scenario.all_nodes,
            gpus_per_node=scenario.gpus_per_node,
            days=scenario.days,
            seed=seed,
        )
    if (beyond := max((o.node for o in trace), default=0)) >= scenario.all_nodes:
        raise Refused("trace", wrong=f"node {beyond}", right=f"use 0 to {scenario.all_nodes - 1}")
    pace = Pace(
        step_seconds=scenario.step_seconds,
        every_steps=scenario.every_steps,
        memory_every_steps=scenario.memory_every_steps,
        save_stall=times.save_stall,
        copy_stall=times.copy_stall,
        save_seconds=times.save_seconds,
    )
    return Setup(
        job=job(scenario),
        nodes=scenario.all_nodes,
        days=scenario.days,
        trace=trace,
        times=times,
        pace=pace,
        seed=seed,
        replicas=scenario.replicas,
    )
