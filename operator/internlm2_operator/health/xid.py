"""NVIDIA's XID codes as data: what NVIDIA says to do at once, and what we do.

Source of every row, unless it names another: NVIDIA XID catalogue, column "immediate action"
(docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html), Ampere and newer.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from internlm2_operator.health.rules import Weight
from internlm2_operator.health.verdict import Action

CATALOGUE: Final = "NVIDIA XID catalogue"


class Act(enum.StrEnum):
    """What we do about a code. Only CORDON and SUSPECT can ever lead to a cordon."""

    CORDON = "cordon"  # hard: one sighting is enough
    SUSPECT = "suspect"  # cordon when an independent source agrees
    RESTART = "restart"  # the application's own fault: the process restarts, the node stays
    SYMPTOM = "symptom"  # follows another fault: never the cause
    RECORD = "record"  # noted, nothing else


@dataclass(frozen=True, slots=True)
class XidRule:
    xid: int
    name: str
    nvidia: str  # NVIDIA's immediate action
    act: Act
    source: str = CATALOGUE

    @property
    def weight(self) -> Weight:
        """What one sighting proves about the node."""
        return {Act.CORDON: Weight.HARD, Act.SUSPECT: Weight.SUSPECT}.get(self.act, Weight.NOTHING)

    @property
    def action(self) -> Action:
        """What is done once the code is believed."""
        if self.weight is not Weight.NOTHING:
            return _REMEDIES.get(self.nvidia, Action.CORDON)
        return Action.RESTART if self.act in (Act.RESTART, Act.SYMPTOM) else Action.NONE


_REMEDIES: Final = {
    "RESET_GPU": Action.CORDON_RESET,
    "WORKFLOW_XID_48": Action.CORDON_RESET,
    "WORKFLOW_NVLINK_ERR": Action.CORDON_RESET,
    "WORKFLOW_NVLINK5_ERR": Action.CORDON_RESET,
    "RESTART_BM": Action.CORDON_REBOOT,
    "RESTART_VM": Action.CORDON_REBOOT,
    "CONTACT_SUPPORT": Action.CORDON_REPLACE,
    "CHECK_MECHANICALS": Action.CORDON_REPLACE,
}

_NAMED: Final = (
    XidRule(13, "graphics engine exception", "RESTART_APP", Act.RESTART),
    XidRule(31, "GPU memory page fault", "RESTART_APP", Act.RESTART),
    XidRule(43, "GPU stopped processing", "IGNORE", Act.RESTART),
    # 45 follows other faults (the driver tears channels down): a symptom, never the cause.
    XidRule(45, "preemptive cleanup after previous errors", "WORKFLOW_XID_45", Act.SYMPTOM),
    XidRule(46, "GPU stopped processing, no recovery", "RESET_GPU", Act.SUSPECT),
    # 48 becomes hard together with 63 or 64: see DOUBLE_BIT and REMAPPED.
    XidRule(48, "double bit ECC error", "WORKFLOW_XID_48", Act.SUSPECT),
    XidRule(54, "auxiliary power not connected", "CHECK_MECHANICALS", Act.SUSPECT),
    XidRule(62, "internal micro-controller halt", "RESET_GPU", Act.SUSPECT),
    XidRule(63, "row remapped", "IGNORE", Act.RECORD),
    XidRule(64, "row remap failed", "RESET_GPU", Act.CORDON),
    XidRule(74, "NVLink error", "WORKFLOW_NVLINK_ERR", Act.SUSPECT),
    XidRule(79, "GPU has fallen off the bus", "RESTART_BM", Act.CORDON),
    XidRule(92, "high single-bit ECC error rate", "IGNORE", Act.RECORD),
    XidRule(94, "contained memory error", "RESTART_APP", Act.RESTART),
    XidRule(95, "uncontained memory error", "RESET_GPU", Act.CORDON),
    XidRule(109, "context switch timeout", "RESET_GPU", Act.SUSPECT),
    XidRule(110, "security fault", "RESET_GPU", Act.SUSPECT),
    XidRule(119, "GSP RPC timeout", "RESET_GPU", Act.SUSPECT),
    XidRule(120, "GSP error", "RESET_GPU", Act.SUSPECT),
    XidRule(136, "link training failed", "RESET_GPU", Act.SUSPECT),
    XidRule(140, "unrecovered ECC error", "RESET_GPU", Act.SUSPECT),
    XidRule(142, "NVIDIA asks to be contacted", "CONTACT_SUPPORT", Act.SUSPECT),
    XidRule(143, "GPU initialization failure", "RESET_GPU", Act.SUSPECT),
    XidRule(151, "key rotation error", "RESTART_VM", Act.SUSPECT),
    # 154 only says that the recovery action changed; its text (reset, reboot) is not in the metric.
    XidRule(154, "GPU recovery action changed", "SEE_TEXT", Act.SUSPECT),
    XidRule(155, "NVLink: software-defined reset", "RESET_GPU", Act.SUSPECT),
    XidRule(156, "resource retirement event", "RESET_GPU", Act.SUSPECT),
    XidRule(158, "GPU fatal timeout", "RESET_GPU", Act.SUSPECT),
    XidRule(167, "PCIe fatal timeout", "RESTART_BM", Act.CORDON, source="our reading: the device is gone, as with 79"),
)
_RESTART_APP: Final = (8, 11, 25, 32, *range(39, 42), 60, *range(68, 73), *range(75, 78), 80, *range(82, 87), 88, 89,
                       *range(96, 106), *range(126, 136), 139)  # fmt: skip
# Of these the driver's text tells whether the link was lost.
NVLINK5: Final = range(144, 151)
_SEVERITY: Final = re.compile(r"\b(?:Nonf|F)atal\b")

TABLE: Final[dict[int, XidRule]] = (
    {xid: XidRule(xid, "application error", "RESTART_APP", Act.RESTART) for xid in _RESTART_APP}
    | {
        xid: XidRule(xid, "NVLink 5 error, unless its text says Nonfatal", "WORKFLOW_NVLINK5_ERR", Act.SUSPECT)
        for xid in NVLINK5
    }
    | {rule.xid: rule for rule in _NAMED}
)

# A double bit error whose row was remapped, or could not be, on the same GPU: drain and reset.
DOUBLE_BIT: Final = 48
REMAPPED: Final = frozenset({63, 64})
# Contained: the error took its process with it and nothing else, so a double bit error beside it says no more.
CONTAINED: Final = 94
# The driver says in words what the GPU needs now (R565 and newer); nobody knows better.
RECOVERY_CHANGED: Final = 154
# What these mean is in the driver's words; a metric has none.
WORDED: Final = frozenset({*NVLINK5, RECOVERY_CHANGED})
# A program's errors, unless they stay with one GPU whatever runs on it.
GRAPHICS_EXCEPTION: Final = 13
REPEATING: Final = frozenset({GRAPHICS_EXCEPTION, 31})


def recovery(text: str) -> Action | None:
    """Return what the text of XID 154 asks for; None when it names nothing that we know."""
    words = text.lower().rpartition(" to ")[2]
    if "none" in words:
        return Action.NONE
    if "reboot" in words:
        return Action.CORDON_REBOOT
    return Action.CORDON_RESET if "reset" in words else None


def tells(xid: int, text: str) -> bool:
    """Say whether the text of a WORDED code holds the words that decide."""
    return recovery(text) is not None if xid == RECOVERY_CHANGED else _SEVERITY.search(text) is not None


def lost_its_link(text: str) -> bool:
    """Say whether the text of an NVLINK5 code says that the link was lost."""
    return "Fatal" in _SEVERITY.findall(text)


def rule_of(xid: int, text: str = "") -> XidRule:
    """Return the rule of a code; a code that the catalogue gives no action for is only recorded.

    `text` is what the driver says after the code; of several sightings the worst counts.
    """
    if xid in NVLINK5 and tells(xid, text) and not lost_its_link(text):
        return XidRule(xid, "NVLink 5 error that the link survived", "WORKFLOW_NVLINK5_ERR", Act.RECORD)
    return TABLE.get(xid) or XidRule(xid, "not in the table", "none given", Act.RECORD)
