"""What breaks, how it shows itself, and how often: published counts, a mix of Poisson processes each."""

import enum
from dataclasses import dataclass
from typing import Final


class Kind(enum.StrEnum):
    """How a fault shows itself to torchrun and the operator."""

    PROCESS = "process"  # a process dies; torchrun restarts all of them in place
    HANG = "hang"  # a collective never returns; the trainer's watch ends the process, then as PROCESS
    SILENT = "silent"  # steps go on with wrong numbers until the loss tells; all since the fault is done again
    XID = "xid"  # a GPU is gone with a hard XID; the node is cordoned and its member evicted
    SUSPECT = "suspect"  # an XID that alone proves nothing; the node check of the restart is the second source
    NODE = "node"  # the node falls silent
    PLANNED = "planned"  # a person suspends the job and lets it go on


NEEDS_REPAIR: Final = frozenset({Kind.XID, Kind.SUSPECT, Kind.NODE})


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of a table of causes: how often it was counted, and how we take it to show itself."""

    name: str
    kind: Kind
    count: int


@dataclass(frozen=True, slots=True)
class Mix:
    """A table of causes, and the GPU-hours it was counted over."""

    name: str
    source: str
    gpus: int
    days: float
    causes: tuple[Cause, ...]

    @property
    def total(self) -> int:
        return sum(cause.count for cause in self.causes)

    def per_second(self, cause: Cause, gpus: int) -> float:
        """Return how often the cause strikes `gpus` GPUs; what a person plans comes as often at any size."""
        seconds = self.days * 86400
        return cause.count / seconds * (1 if cause.kind is Kind.PLANNED else gpus / self.gpus)


LLAMA3: Final = Mix(
    name="llama3",
    source="The Llama 3 Herd of Models, arXiv 2407.21783, table 5 (July 2024): 466 interruptions, 419 unexpected",
    gpus=16384,
    days=54,
    causes=(
        Cause("faulty GPU", Kind.XID, 148),
        Cause("GPU HBM3 memory", Kind.XID, 72),
        Cause("software bug", Kind.PROCESS, 54),
        Cause("planned maintenance", Kind.PLANNED, 47),
        Cause("network switch or cable", Kind.HANG, 35),
        Cause("unplanned host maintenance", Kind.NODE, 32),
        Cause("GPU SRAM memory", Kind.XID, 19),
        Cause("GPU system processor", Kind.SUSPECT, 17),
        Cause("NIC", Kind.NODE, 7),
        Cause("NCCL watchdog timeout", Kind.HANG, 7),
        Cause("silent data corruption", Kind.SILENT, 6),
        Cause("GPU thermal interface or sensor", Kind.SUSPECT, 6),
        Cause("SSD", Kind.NODE, 3),
        Cause("power supply", Kind.NODE, 3),
        Cause("server chassis", Kind.NODE, 2),
        Cause("IO expansion board", Kind.NODE, 2),
        Cause("dependency", Kind.PROCESS, 2),
        Cause("CPU", Kind.NODE, 2),
        Cause("system memory", Kind.NODE, 2),
    ),
)

# Six months of all jobs of two clusters, so these GPUs were not all busy all the time: the rate is a lower bound.
ACME: Final = Mix(
    name="acme",
    source="Characterization of Large Language Model Development in the Datacenter, arXiv 2403.07648, table 3 (March"
    " 2024): infrastructure failures over March to August 2023, Seren and Kalos together",
    gpus=2288 + 2416,
    days=184,
    causes=(
        Cause("connection error", Kind.PROCESS, 147),
        Cause("NVLink error", Kind.SUSPECT, 54),
        Cause("CUDA error", Kind.PROCESS, 21),
        Cause("node failure", Kind.NODE, 16),
        Cause("ECC error", Kind.XID, 12),
        Cause("network error", Kind.HANG, 12),
        Cause("S3 storage error", Kind.PROCESS, 10),
        Cause("NCCL timeout", Kind.HANG, 6),
        Cause("NCCL remote error", Kind.PROCESS, 3),
    ),
)

MIXES: Final = {mix.name: mix for mix in (LLAMA3, ACME)}
