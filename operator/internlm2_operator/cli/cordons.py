"""`internlm2 cordons`: the nodes that the operator took out, and on what evidence."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import nodes
from internlm2_operator.cli.answer import UNKNOWN, Answer, ago, columns
from internlm2_operator.cluster import errors, gateway
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.cluster.records import node as record_of
from internlm2_operator.health.node import FaultNote, NodeRecord
from internlm2_spec.config import Refused


async def ask(api: Gateway, now: datetime) -> Answer:
    """Read all nodes and all jobs."""
    jobs = [InternLM2Job.from_object(raw) for raw in await api.objects(gateway.jobs_of(""))]
    return told(await api.objects(gateway.NODES), jobs, now)


def told(found: Iterable[Mapping[str, Any]], jobs: Iterable[InternLM2Job], now: datetime) -> Answer:
    """Return the cordons that carry our note; those of people and other programs are not ours to explain."""
    records = [record_of(raw).record for raw in found]
    noted = sorted(((n.name, n.fault) for n in records if n.fault is not None), key=lambda n: n[1].cordoned_at)
    hit = {name: [job.key for job in jobs if any(f.node == name for f in job.status.faults)] for name, _ in noted}
    rows = [("NODE", "SINCE", "CAUSE", "GPU", "BY", "JOBS")]
    wide: list[str] = []
    for name, note in noted:
        cells = (name, ago(note.cordoned_at, now), note.cause, note.gpu or UNKNOWN, note.by or UNKNOWN)
        rows.append((*cells, ", ".join(hit[name]) or UNKNOWN))
    table = tuple(columns(rows))
    for line, entry in zip(table, (None, *noted), strict=True):
        wide += [line, *(f"  {said}" for said in (_why(entry[1]) if entry else ()))]
    return Answer(
        lines=table if noted else ("no node is cordoned by the operator",),
        wide=tuple(wide) if noted else None,
        data=[_data(name, note, hit[name]) for name, note in noted],
        names=tuple(f"node/{name}" for name, _ in noted),
    )


async def why(api: Gateway, name: str, now: datetime) -> Answer:
    """Explain one node's cordon.

    Raises:
        Refused: there is no such node.
    """
    try:
        found = await api.node(name)
    except errors.NotFound as error:
        raise Refused("NODE", wrong=f"no node {name}", right="see `kubectl get nodes`") from error
    return reason(record_of(found).record, now)


def reason(node: NodeRecord, now: datetime) -> Answer:
    """Return who cordoned a node, by which rule, on what evidence, and what would mend it."""
    note = node.fault
    if note is None:
        says = "it takes pods" if not node.unschedulable and not node.taints else "somebody else cordoned or tainted it"
        head = f"{node.name} has no cordon of ours: {says}"
        return Answer(lines=(head, *nodes.about(node, now)), data={"cause": None} | nodes.data(node, now))
    head = f"{node.name} was cordoned {ago(note.cordoned_at, now)} ago by {note.by or UNKNOWN}: {note.cause}"
    also = ("it was unschedulable before: lifting our cordon leaves that",) if note.before else ()
    stays = f"it stays: {nodes.stays(node)}"
    lines = (head + (f" on {note.gpu}" if note.gpu else ""), *_why(note), *also, stays, *nodes.about(node, now))
    return Answer(lines=lines, data=nodes.data(node, now) | _data(node.name, note, []))


def _why(note: FaultNote) -> list[str]:
    rule = [f"rule: {note.rule}"] if note.rule else []
    mend = [f"to mend it: {note.action}"] if note.action else []
    return [*rule, *(f"evidence: {said}" for said in note.evidence), *mend]


def _data(name: str, note: FaultNote, jobs: list[str]) -> dict[str, Any]:
    return {
        "node": name,
        "cordonedAt": note.cordoned_at.isoformat(),
        "signalAt": note.signal_at.isoformat(),
        "cause": note.cause,
        "gpu": note.gpu,
        "by": note.by,
        "rule": note.rule,
        "action": note.action,
        "evidence": list(note.evidence),
        "unschedulableBefore": note.before,
        "jobs": jobs,
    }
