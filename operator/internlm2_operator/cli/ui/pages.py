"""What each page says. Pure: jobs and nodes in, text and links out, nothing of HTML."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, Final
from urllib.parse import quote

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import CONDITIONS, Fault, FaultTimes, arrow_seconds
from internlm2_operator.cli import cordons, nodes, text, why
from internlm2_operator.cli.answer import UNKNOWN, ago, figure
from internlm2_operator.cli.ui import timeline
from internlm2_operator.cli.ui.curve import Curve, curve
from internlm2_operator.cluster.history import Past
from internlm2_operator.health.node import NodeRecord
from internlm2_operator.plan import causes


@dataclass(frozen=True, slots=True)
class Cell:
    """Text, and where it leads: a path below the first page, empty for nowhere."""

    text: str
    link: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """The first cell of each row names it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    empty: str  # what is said instead of a table without rows


@dataclass(frozen=True, slots=True)
class Jobs:
    """`namespace` empty is all of them; `unreadable` are jobs that this program is too old for, and why."""

    template: ClassVar[str] = "jobs.html"
    title: str
    namespace: str
    table: Table
    notes: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """`done` of `steps`, which are those of this stage alone."""

    name: str
    state: str
    done: int
    steps: int

    @property
    def part(self) -> str:
        return f"{self.done / self.steps:.0%}"


@dataclass(frozen=True, slots=True)
class Job:
    """`missing` says why there are no curves; both are empty where no Prometheus is asked."""

    template: ClassVar[str] = "job.html"
    title: str
    why: str
    figures: tuple[tuple[str, str], ...]
    stages: tuple[Stage, ...]
    life: timeline.Picture
    faults: Table
    conditions: Table
    curves: tuple[Curve, ...] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class FaultPage:
    template: ClassVar[str] = "fault.html"
    title: str
    job: Cell
    figures: tuple[tuple[str, Cell], ...]
    recovery: timeline.Picture
    arrows: Table
    evidence: tuple[str, ...]
    cure: str


@dataclass(frozen=True, slots=True)
class Nodes:
    template: ClassVar[str] = "nodes.html"
    title: str
    table: Table


@dataclass(frozen=True, slots=True)
class Node:
    """`lines` are what `internlm2 why-cordoned` says: the first is the answer, the others are its grounds."""

    template: ClassVar[str] = "node.html"
    title: str
    lines: tuple[str, ...]
    jobs: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no answer, and what to do about it."""

    template: ClassVar[str] = "problem.html"
    title: str
    said: str
    cure: str = ""


Page = Jobs | Job | FaultPage | Nodes | Node | Problem

_WORDS: Final = {"last_step": "last step"}


def job_link(job: InternLM2Job) -> str:
    return f"jobs/{quote(job.namespace, safe='')}/{quote(job.name, safe='')}"


def fault_link(job: InternLM2Job, fault: Fault) -> str:
    return f"{job_link(job)}/faults/{quote(fault.id, safe='')}"


def node_link(name: str) -> str:
    return f"nodes/{quote(name, safe='')}" if name else ""


def jobs(
    found: Sequence[InternLM2Job],
    now: datetime,
    *,
    namespace: str,
    notes: Sequence[str] = (),
    unreadable: Sequence[str] = (),
) -> Jobs:
    """Return the table of `internlm2 status -o wide`, each job leading to its page."""
    links = {(job.namespace, job.name): job_link(job) for job in found}
    head, *rows = text.table(found, now, everywhere=True, more=True)
    # A row is named by what leads on, so the name of the job stands before its namespace.
    swapped = tuple((Cell(name, links[space, name]), Cell(space), *map(Cell, rest)) for space, name, *rest in rows)
    where = f"namespace {namespace}" if namespace else "all namespaces"
    caption, empty = f"{len(found)} jobs, by namespace and name", f"There are no jobs in {where}."
    table = Table(caption, (head[1], head[0], *head[2:]), swapped, empty)
    return Jobs(f"Jobs of {where}", namespace, table, tuple(notes), tuple(unreadable))


def job(one: InternLM2Job, now: datetime, past: Past | None = None, missing: str = "") -> Job:
    """Return where a job stands, what it went through, and why it does not go on."""
    status = one.status
    curves = tuple(_curves(past)) if past else ()
    return Job(
        title=f"Job {one.key}",
        why=why.written(one, now),
        figures=tuple(_figures(one, now)),
        stages=tuple(_stages(one)),
        life=timeline.life(one.created, status.start_time, status.faults, status.completion_time, now),
        faults=_faults(one, now),
        conditions=_conditions(one, now),
        curves=curves,
        missing=missing or ("Prometheus has no figures of this job." if past and not curves else ""),
    )


def life(one: InternLM2Job, now: datetime) -> tuple[datetime, datetime]:
    """Return from when to when there can be figures of a job."""
    return one.status.start_time or one.created, one.status.completion_time or now


def _curves(past: Past) -> Iterator[Curve]:
    for name, form, points in (("Loss", ".4f", past.loss), ("MFU, causal", ".1%", past.mfu)):
        if points:
            yield curve(name, form, points, past.since, past.until, past.step)


def _figures(one: InternLM2Job, now: datetime) -> Iterator[tuple[str, str]]:
    status, saved = one.status, one.status.checkpoint
    yield "Phase", status.phase
    yield "Model", one.spec.model.preset or "of its own shape"
    yield "Attempt", str(status.attempt)
    yield "Step", figure(status.step)
    yield "Loss", figure(status.loss, ".4f")
    yield "MFU, causal", figure(status.mfu, ".1%")
    yield "Tokens/s", figure(status.tokens_per_second, ",.0f")
    wanted = one.spec.nodes
    bounds = f"{wanted.min}" if wanted.min == wanted.max else f"{wanted.min} to {wanted.max}"
    yield "Nodes", f"{status.nodes.active} train, {status.nodes.spare} spare; asked for: {bounds}"
    yield "Restarts", f"{status.restarts.infrastructure} by infrastructure, {status.restarts.counted} counted"
    yield "Checkpoint", f"step {saved.step}, {ago(saved.time, now)} ago" if saved and saved.time else "none known"
    yield "Age", ago(one.created, now)


def _stages(one: InternLM2Job) -> Iterator[Stage]:
    """Yield every stage; the step of the status is that of the current one."""
    status = one.status
    complete = (known := status.condition("Complete")) is not None and known.status == "True"
    for index, stage in enumerate(one.spec.stages):
        if complete or index < status.stage_index:
            yield Stage(stage.name, "complete", stage.steps, stage.steps)
        elif index > status.stage_index or not status.stage:
            yield Stage(stage.name, "to come", 0, stage.steps)
        else:
            yield Stage(stage.name, "current", min(status.step or 0, stage.steps), stage.steps)


def _faults(one: InternLM2Job, now: datetime) -> Table:
    rows = []
    for number, fault in enumerate(one.status.faults, start=1):
        lasted = arrow_seconds(fault.times).get("total")
        rows.append(
            (
                Cell(f"{number}. {fault.cause}", fault_link(one, fault)),
                Cell("closed" if fault.times.closed else "open"),
                Cell(fault.node or UNKNOWN, node_link(fault.node)),
                Cell(ago(fault.times.signal, now)),
                Cell(UNKNOWN if lasted is None else f"{lasted:.1f} s"),
                Cell(figure(fault.steps_lost)),
                Cell(fault.verdict or UNKNOWN),
                Cell(fault.action or UNKNOWN),
            )
        )
    head = ("FAULT", "STATE", "NODE", "SIGNAL, AGO", "TO FIRST STEP", "STEPS LOST", "VERDICT", "ACTION")
    return Table("Faults, oldest first", head, tuple(rows), "No fault is known.")


def _conditions(one: InternLM2Job, now: datetime) -> Table:
    rows = tuple(
        (
            Cell(known.type),
            Cell(known.status),
            Cell(ago(known.last_transition_time, now)),
            Cell(known.reason),
            Cell(known.message or UNKNOWN),
            Cell(CONDITIONS.get(known.type, UNKNOWN)),
        )
        for known in one.status.conditions
    )
    head = ("CONDITION", "STATUS", "SINCE", "REASON", "MESSAGE", "TRUE MEANS")
    return Table("Conditions", head, rows, "The operator has not looked at the job yet.")


def fault(one: InternLM2Job, id_: str) -> FaultPage | None:
    """Return a fault of a job with its evidence and arrows, None where the job has none of this id."""
    found = next((known for known in one.status.faults if known.id == id_), None)
    if found is None:
        return None
    row = causes.cause(found.cause)
    return FaultPage(
        title=f"Fault {found.cause}" + (f" on {found.node}" if found.node else ""),
        job=Cell(one.key, job_link(one)),
        figures=(
            ("State", Cell("closed" if found.times.closed else "open")),
            ("Node", Cell(found.node or "none is at fault", node_link(found.node))),
            ("GPU", Cell(found.gpu or UNKNOWN)),
            ("Verdict", Cell(found.verdict or UNKNOWN)),
            ("Action", Cell(found.action or UNKNOWN)),
            ("Node cordoned", Cell("yes" if found.cordoned else "no")),
            ("Steps done twice", Cell(figure(found.steps_lost))),
            ("In a row", Cell(str(found.count))),
        ),
        recovery=timeline.recovery(found),
        arrows=_arrows(found),
        evidence=found.evidence,
        cure=row.cure if row.name == found.cause else "",
    )


def _arrows(found: Fault) -> Table:
    seconds, rows = arrow_seconds(found.times), []
    for name, field in FaultTimes.model_fields.items():
        at: datetime | None = getattr(found.times, name)
        meaning = (field.description or "").partition(" is ")[2].rstrip(".")
        when = "not yet, or not at all" if at is None else at.isoformat(sep=" ", timespec="milliseconds")
        took = f"{seconds[name]:.1f} s" if name in seconds else UNKNOWN
        rows.append((Cell(_WORDS.get(name, name)), Cell(when), Cell(took), Cell(meaning)))
    if "total" in seconds:
        rows.append((Cell("in all"), Cell(UNKNOWN), Cell(f"{seconds['total']:.1f} s"), Cell("from signal to closed")))
    return Table("Times of the recovery", ("MOMENT", "AT", "AFTER THE ONE BEFORE", "WHEN"), tuple(rows), "")


def all_nodes(records: Sequence[NodeRecord], now: datetime) -> Nodes:
    """Return the table of `internlm2 nodes`, each node leading to its page."""
    head, *rows = nodes.table(records, now)
    linked = tuple((Cell(name, node_link(name)), *map(Cell, rest)) for name, *rest in rows)
    empty = f"Nothing is known against any of {len(records)} nodes."
    return Nodes("Nodes", Table(f"What is known about {len(rows)} of {len(records)} nodes", head, linked, empty))


def node(record: NodeRecord, found: Sequence[InternLM2Job], now: datetime) -> Node:
    """Return why a node is cordoned or not, and the jobs among `found` that had a fault there."""
    hit = tuple(Cell(one.key, job_link(one)) for one in found if any(f.node == record.name for f in one.status.faults))
    return Node(f"Node {record.name}", tuple(cordons.reason(record, now).lines), hit)
