"""What each signal that is no XID proves about its node, as data."""

import enum
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.verdict import Action


class Weight(enum.IntEnum):
    """What one signal proves about its node.

    A cordon needs one HARD signal, or a SUSPECT of a source that users cannot write and anything from HINT on of
    another source. Hints never add up to a cordon: all that a user can write is a hint at most.
    """

    NOTHING = 0
    HINT = 1
    SUSPECT = 2
    HARD = 3


@dataclass(frozen=True, slots=True)
class SignalRule:
    """`seen` is how the signal is found, `action` what is done once it is believed, `source` whose rule it is."""

    cause: str
    seen: str
    weight: Weight
    action: Action
    source: str


MEMORY_LIMIT: Final = "MemoryLimit"
_DCGM: Final = "DCGM field reference and NVIDIA's GPU debug guidelines"
_KUBERNETES: Final = "Kubernetes node status"
_OURS: Final = "ours"

_ROWS: Final = (
    SignalRule("NodeNotReady", "Ready is Unknown, or False for 30 s", Weight.HARD, Action.CORDON, _KUBERNETES),
    SignalRule(
        "GpuMissing",
        "no series of a GPU in 2 scrapes while its exporter answers",
        Weight.HARD,
        Action.CORDON_REBOOT,
        "as XID 79: the GPU is off the bus",
    ),
    SignalRule("GpuLost", "kernel log: a GPU is off the bus", Weight.HARD, Action.CORDON_REBOOT, "as XID 79"),
    SignalRule(
        "NodeCheckFailed", "a check that the operator ran finds the node slow or broken", Weight.HARD,
        Action.CORDON_REBOOT, _OURS,
    ),
    SignalRule(
        "RowRemapFailure", "DCGM_FI_DEV_ROW_REMAP_FAILURE rises to 1", Weight.HARD, Action.CORDON_REPLACE, _DCGM
    ),
    SignalRule(
        "DoubleBitError", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL rises", Weight.SUSPECT, Action.CORDON_RESET, _DCGM
    ),
    SignalRule(
        "RetirementPending", "DCGM_FI_DEV_RETIRED_PENDING rises", Weight.SUSPECT, Action.CORDON_RESET, _DCGM
    ),
    SignalRule(
        "GpuHealthFailed", "DCGM_EXP_GPU_HEALTH_STATUS says fail", Weight.SUSPECT, Action.CORDON_RESET, _DCGM
    ),
    SignalRule(
        "DeviceUnhealthy", "the device plugin offers fewer GPUs than the node has", Weight.SUSPECT,
        Action.CORDON_RESET, "Kubernetes device plugins",
    ),
    SignalRule(
        "GpuUnhealthy", "condition GPUHealthy is False, by a reason that no row has", Weight.SUSPECT, Action.CORDON,
        _OURS,
    ),
    SignalRule("DriverFailed", "kernel log: RmInitAdapter failed", Weight.SUSPECT, Action.CORDON_REBOOT, _OURS),
    SignalRule("SXidFatal", "kernel log: SXid, fatal", Weight.SUSPECT, Action.CORDON_REBOOT, "DCGM SXID_ERROR"),
    SignalRule("MachineCheck", "kernel log: hardware error", Weight.SUSPECT, Action.CORDON_REBOOT, _OURS),
    SignalRule("LinkDown", "a network link of the node is down", Weight.SUSPECT, Action.CORDON, _OURS),
    SignalRule("DiskReadOnly", "a file system was remounted read-only", Weight.SUSPECT, Action.CORDON, _OURS),
    SignalRule("NvlinkErrors", "an NVLink recovery counter rises", Weight.SUSPECT, Action.CORDON_RESET, _DCGM),
    SignalRule("PcieReplays", "more than 8 PCIe replays a minute", Weight.HINT, Action.CHECK, _DCGM),
    SignalRule("DiskFull", "a disk of the node is full", Weight.HINT, Action.CHECK, _OURS),
    SignalRule("ClockSkew", "the node's clock is wrong", Weight.HINT, Action.CHECK, _OURS),
    SignalRule("PodExit", "a pod ended in a way that suspects its node", Weight.HINT, Action.CHECK, _OURS),
    SignalRule("Stalled", "a rank makes no progress, or is slower than the others", Weight.HINT, Action.CHECK, _OURS),
    SignalRule("RankLog", "a rule of the rank logs speaks against the node", Weight.NOTHING, Action.CHECK, _OURS),
    SignalRule("SXidNonFatal", "kernel log: SXid, non-fatal", Weight.NOTHING, Action.NONE, "DCGM SXID_ERROR"),
    SignalRule(
        "RowsRemapped", "DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS rises", Weight.NOTHING, Action.NONE,
        "NVIDIA: reset the GPU when the job ends anyway",
    ),
    SignalRule("Throttled", "clocks are held down by heat or power", Weight.NOTHING, Action.NONE, _DCGM),
    SignalRule("Maintenance", "a notice of the cloud on the node", Weight.NOTHING, Action.DRAIN, _OURS),
    SignalRule("OutOfMemory", "kernel log: a process was killed for memory", Weight.NOTHING, Action.NONE, _OURS),
    SignalRule(
        MEMORY_LIMIT, "kernel log: a container met its limit of memory", Weight.NOTHING, Action.RESTART,
        "Linux, mm/oom_kill.c: it explains the pod that ends with it",
    ),
    SignalRule("ExporterDown", "`up` of the exporter is 0: nothing is known", Weight.NOTHING, Action.WAIT, _OURS),
)  # fmt: skip

SIGNALS: Final[dict[str, SignalRule]] = {row.cause: row for row in _ROWS}


def signal_rule(cause: str) -> SignalRule:
    """Return the row of a cause; one that is not in the table is only recorded."""
    return SIGNALS.get(cause) or SignalRule(cause, "not in the table", Weight.NOTHING, Action.NONE, _OURS)
