"""What can be broken in the lab, and how each break is undone.

Every injection is recorded in `faults.json` of the state folder, so `heal` undoes exactly what was done. Times are
wall-clock seconds since the epoch, taken just before the break.
"""

import json
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from internlm2_spec.contract import (
    ANNOTATION_CHECK,
    ANNOTATION_FAULT,
    ANNOTATION_HELD,
    ANNOTATION_HISTORY,
    ANNOTATION_RESET,
    TAINT_FAULT,
)
from lab import process
from lab.faults import clock, gpus, nodes, processes, servers
from lab.faults.record import Kind, Record, recorded, save
from lab.settings import LabError

if TYPE_CHECKING:
    from lab.cluster import Lab

__all__ = ["KINDS", "heal", "inject", "recorded", "undo"]

KINDS: Final[dict[str, Kind]] = {**nodes.KINDS, **gpus.KINDS, **processes.KINDS, **clock.KINDS, **servers.KINDS}

# What the operator keeps on a node about its faults; the breaker counts those of the last minutes.
MEMORY: Final = frozenset({ANNOTATION_FAULT, ANNOTATION_HISTORY, ANNOTATION_HELD, ANNOTATION_CHECK})


def inject(lab: "Lab", kind: str, **what: Any) -> Record:
    """Break something; return and record what was done.

    Raises:
        LabError: an unknown kind, or a node, GPU or pod that is not there.
    """
    if kind not in KINDS:
        raise LabError(f"fault: {kind!r} is not known; use one of {', '.join(KINDS)}")
    done = KINDS[kind].inject(lab, {key: value for key, value in what.items() if value is not None})
    if KINDS[kind].lasting:
        save(lab.state, [*recorded(lab.state), done])
    return done


def undo(lab: "Lab", record: Record) -> None:
    """End one fault. A cordon that the operator made because of it stays."""
    KINDS[record["fault"]].undo(lab, record)
    save(lab.state, [r for r in recorded(lab.state) if r != record])


def heal(lab: "Lab", only: str | None = None) -> list[Record]:
    """Undo what was injected, on one node or everywhere; return what was undone.

    Nodes are taken back into service; without `only` every server that died runs again, too.
    """
    if only is not None:
        lab.node(only)  # refuses a name that is not there
    records = [r for r in recorded(lab.state) if only is None or r.get("node") == only]
    for record in records:
        if record["fault"] in servers.KINDS:
            undo(lab, record)
    for server in servers.DOWN.values() if only is None else ():
        lab.control.start(server)
    process.wait_until(lab.answers, what="kube-apiserver", seconds=60)
    # Also one that no record is of: a break that failed half way.
    dead = [name for name in ([only] if only else lab.node_names) if not lab.node(name).runs()]
    for name in dead:
        nodes.replace_machine(lab, name)
    for record in records:
        if record["fault"] not in servers.KINDS and record.get("node") not in dead:
            undo(lab, record)
    save(lab.state, [r for r in recorded(lab.state) if r not in records])
    for name in [only] if only else lab.node_names:
        _take_back(lab, name)
        process.wait_until(partial(lab.node_is_ready, name), what=f"{name} Ready", seconds=60, every=0.3)
    return records


def _take_back(lab: "Lab", name: str) -> None:
    """Take a repaired node back as a new machine: no cordon of the operator's, nor what it remembers of the old one."""
    node = lab.get("node", name)
    spec, meta = node["spec"], node["metadata"]
    taints = [taint for taint in spec.get("taints", []) if taint["key"] != TAINT_FAULT]
    remembered = MEMORY & meta.get("annotations", {}).keys()
    marked = remembered or len(taints) != len(spec.get("taints", []))
    if not marked:
        return
    # The node controller owns its own taints: they are written back as they were, ours only is left out.
    keep = [taint for taint in taints if taint["key"] != "node.kubernetes.io/unschedulable"]
    # An operator that started anew meanwhile reads the XID again, as if it had come after the cordon.
    notes = dict.fromkeys(sorted(remembered)) | {ANNOTATION_RESET: datetime.now(UTC).isoformat()}
    patch = {
        "metadata": {"annotations": notes},
        "spec": {"unschedulable": None, "taints": keep or None},
    }
    lab.kubectl("patch", "node", name, "--type=merge", "-p", json.dumps(patch))
