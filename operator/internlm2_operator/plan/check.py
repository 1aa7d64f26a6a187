"""Which nodes are checked now, and what came of it: pods in the operator's own namespace, where no user can write.

Checked are the nodes of a job that waits for that (`check_gate`), and suspects: nodes that a fault or a signal speaks
against, and cordoned ones that came back. A suspect meets known-good nodes where some are free. Rank 0 hosts the store
and its pod comes first; the others are made once it has an IP, which they are told: a Service would add DNS to what has
to work for a check. What is remembered lies in the pods and on the nodes, so an operator that restarts goes on.

A check holds GPUs but is in nobody's way: jobs are placed as if it were not there, and its pods go where they come.
"""

import enum
import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final

from internlm2_operator.health.lemon import DOUBTED_FOR
from internlm2_operator.health.node import CheckNote, NodeRecord, failed_check
from internlm2_operator.plan.constraints import Constraints, of_resource
from internlm2_operator.plan.placement import fits
from internlm2_operator.plan.snapshot import CheckPod, Outcome, PodPhase, Snapshot
from internlm2_operator.plan.suspects import Suspect


class Depth(enum.StrEnum):
    QUICK = "quick"
    FULL = "full"


# From the making of rank 0 until the pods of a check are removed: time to pull the image, and the check, whose quick
# form takes seconds and whose full form a minute or two a node when all is well.
LIMIT: Final = MappingProxyType({Depth.QUICK: timedelta(minutes=5), Depth.FULL: timedelta(minutes=20)})
# Rank 0 waits so much of it for the others.
JOIN: Final = 0.5
# Who is not done so long after rank 0 ended will not be told anything any more.
LINGER: Final = timedelta(seconds=30)
# Pods that ended stay so long for whoever reads their logs; a suspect of which nothing was learnt rests meanwhile.
KEPT: Final = timedelta(minutes=10)
AT_ONCE: Final = 8  # suspects
# With one partner nobody can say which of the two is at fault when they fail together; with two they can.
PARTNERS: Final = 2


@dataclass(frozen=True, slots=True)
class Check:
    """Who takes part, by rank, and why. `label` names the label of the nodes whose value is their switch.

    `number` tells the checks of one job apart: the same nodes may meet twice.
    """

    nodes: tuple[str, ...]
    depth: Depth
    resource: str
    asked: datetime
    why: str
    job: str = ""  # namespace/name of the job that waits for it
    label: str = ""
    number: int = 0

    @property
    def id(self) -> str:
        said = f"{' '.join(self.nodes)} {self.depth} {self.asked.isoformat()} {self.job} {self.number}"
        return hashlib.sha256(said.encode()).hexdigest()[:10]

    def to_json(self) -> str:
        return json.dumps(asdict(self) | {"asked": self.asked.isoformat()}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Check | None":
        """Parse the annotation of a rank 0; None for text that is not ours."""
        try:
            fields: dict[str, Any] = json.loads(text)
            at, depth = datetime.fromisoformat(fields["asked"]), Depth(fields["depth"])
            return cls(**fields | {"nodes": tuple(fields["nodes"]), "asked": at, "depth": depth})
        except (ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True, slots=True)
class Asked:
    """A job that does not start before its nodes are checked, or the time for that is over."""

    job: str
    nodes: tuple[str, ...]
    depth: Depth
    since: datetime
    why: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the decision may know of one GPU resource. `used` of the nodes does not count pods of checks."""

    resource: str
    nodes: Mapping[str, NodeRecord]
    pods: tuple[CheckPod, ...] = ()
    asked: tuple[Asked, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    def free(self, node: str) -> int:
        """Return the devices on a node that no pod but a check's holds, 0 for a node that is not ready."""
        found = self.nodes.get(node)
        return max(0, found.gpus - found.used) if found is not None and found.ready else 0

    def idle(self, node: str) -> bool:
        """Say whether nobody uses any device of the node: what is in use cannot be measured, nor found well."""
        return self.free(node) > 0 and self.nodes[node].used == 0


@dataclass(frozen=True, slots=True)
class MakePod:
    """One node's part of a check. `store` is the IP of rank 0, empty for rank 0 itself."""

    check: Check
    rank: int
    node: str
    gpus: int
    store: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class RemovePod:
    """`force` removes the object without waiting for its node, which is dead."""

    name: str
    uid: str
    force: bool = False


@dataclass(frozen=True, slots=True)
class WriteNote:
    """Leave on the node how its check ended."""

    node: str
    note: CheckNote


Step = MakePod | RemovePod | WriteNote


def decide(seen: Seen, now: datetime) -> tuple[Step, ...]:
    """Return what to do about checks on the nodes of one resource. Level-based: done twice it changes nothing."""
    groups = {group.pods[0].id: group for group in _groups(seen.pods) if group.check is not None}
    strays = [pod for pod in seen.pods if pod.id not in groups]
    mine = [g for g in groups.values() if g.check is not None and g.check.resource == seen.resource]
    notes = [note for group in mine for pod in group.pods if (note := _note(seen, group, pod)) is not None]
    removed = [*_without_head(seen, strays), *(r for group in mine for r in _removals(seen, group, now))]
    going = {r.uid for r in removed}
    made = [make for group in mine if group.alive(going) for make in _followers(seen, group, now)]
    # A node is busy until its pods are gone.
    busy = {name for group in groups.values() if group.live for name in group.nodes}
    answered = {note.node for note in notes}
    begun = [] if removed else [*_for_jobs(seen, mine, busy), *_for_suspects(seen, mine, busy, answered)]
    return (*notes, *removed, *made, *begun)


def answers(nodes: Iterable[NodeRecord], pods: Iterable[CheckPod], since: datetime) -> dict[str, Outcome]:
    """Return what checks found out about nodes since then: by their notes, or by pods whose note is not written yet."""
    since = since.replace(microsecond=0)  # as the times of pods are
    found = {pod.node: pod.outcome for pod in pods if pod.outcome is not None and pod.created >= since}
    notes = ((n.name, n.check) for n in nodes if n.check is not None and n.check.at >= since)
    return found | {name: Outcome.PASSED if check.passed else Outcome.FAILED for name, check in notes}


def under_check(pods: Iterable[CheckPod], job: str) -> frozenset[str]:
    """Return the nodes on which a check runs that is not this job's own."""
    others = (g for g in _groups(pods) if g.live and (g.check is None or g.check.job != job))
    return frozenset(name for group in others for name in group.nodes)


def shunned(snapshot: Snapshot, now: datetime) -> frozenset[str]:
    """Return the nodes that a job takes last: those a check runs on, that failed one, or did not answer to one."""
    known, pods = snapshot.job.status.node_check, snapshot.checks.pods if snapshot.checks else ()
    failed = {pod.node for pod in pods if pod.outcome is Outcome.FAILED}
    failed |= {
        n.name for n in snapshot.nodes.values() if (s := failed_check(n)) is not None and now - s.at < DOUBTED_FOR
    }
    return under_check(pods, snapshot.job.key) | failed | set(known.silent if known else ())


# --- one check ---


@dataclass(frozen=True, slots=True)
class _Group:
    """The pods of one check, by rank."""

    pods: tuple[CheckPod, ...]

    @property
    def check(self) -> Check | None:
        """Return what rank 0 says; None where it is gone."""
        return Check.from_json(self.pods[0].members) if self.pods[0].rank == 0 else None

    @property
    def live(self) -> bool:
        return any(pod.outcome is None for pod in self.pods)

    @property
    def nodes(self) -> frozenset[str]:
        """Return the nodes that it holds or is about to."""
        check = self.check if self.pods[0].outcome is None else None
        return frozenset(pod.node for pod in self.pods if pod.outcome is None) | frozenset(check.nodes if check else ())

    def alive(self, going: Collection[str]) -> bool:
        """Say whether rank 0 runs and stays, so that others can come to it."""
        head = self.pods[0]
        runs = head.phase is PodPhase.RUNNING and head.outcome is None and bool(head.ip)
        return runs and not head.deleting and head.uid not in going


def _groups(pods: Iterable[CheckPod]) -> list[_Group]:
    by_id: dict[str, list[CheckPod]] = defaultdict(list)
    for pod in sorted(pods, key=lambda p: (p.id, p.rank)):
        by_id[pod.id].append(pod)
    return [_Group(tuple(group)) for group in by_id.values()]


def _note(seen: Seen, group: _Group, pod: CheckPod) -> WriteNote | None:
    """Return the note of a pod that ended and knows; an older result does not replace a newer one."""
    check, node = group.check, seen.nodes.get(pod.node)
    if check is None or node is None or pod.finished is None or pod.outcome not in (Outcome.PASSED, Outcome.FAILED):
        return None
    if node.check is not None and (node.check.uid == pod.uid or node.check.at >= pod.finished):
        return None
    with_whom = f"with {len(check.nodes) - 1} other nodes" if len(check.nodes) > 1 else "alone, without its network"
    said = (f"{check.depth} check {with_whom}: {pod.said or pod.outcome}"[:512], f"asked for: {check.why}"[:512])
    passed = pod.outcome is Outcome.PASSED
    note = CheckNote(pod.finished, "full" if check.depth is Depth.FULL else "quick", passed, said, pod.uid)
    return WriteNote(pod.node, note)


def _without_head(seen: Seen, pods: Iterable[CheckPod]) -> Iterator[RemovePod]:
    """Remove pods whose rank 0 is gone: nobody can tell them anything."""
    return (_remove(seen, pod) for pod in pods if not pod.deleting)


def _removals(seen: Seen, group: _Group, now: datetime) -> Iterator[RemovePod]:
    head, check = group.pods[0], group.check
    assert check is not None
    unwanted = bool(check.job) and check.job not in {asked.job for asked in seen.asked}
    over = now - head.created > LIMIT[check.depth] or unwanted or head.deleting or _in_the_way(seen, head)
    over = over or (head.outcome is not None and now - (head.finished or head.created) > LINGER)
    for pod in group.pods:
        kept = now - (pod.finished or pod.created) <= KEPT if pod.outcome is not None else not over
        if not pod.deleting and (not kept or _in_the_way(seen, pod)):
            yield _remove(seen, pod)


def _in_the_way(seen: Seen, pod: CheckPod) -> bool:
    """Say whether a pod of a check holds devices that somebody else has been given, or lies on a dead node."""
    return pod.outcome is None and seen.free(pod.node) < pod.gpus


def _remove(seen: Seen, pod: CheckPod) -> RemovePod:
    node = seen.nodes.get(pod.node)
    return RemovePod(pod.name, pod.uid, force=node is None or not node.ready)


def _followers(seen: Seen, group: _Group, now: datetime) -> Iterator[MakePod]:
    """Make the pods of the other ranks, for as long as rank 0 waits for them."""
    head, check = group.pods[0], group.check
    assert check is not None
    there = {pod.rank for pod in group.pods}
    if now - head.created > JOIN * LIMIT[check.depth]:
        return
    for rank, node in enumerate(check.nodes):
        if rank not in there and (gpus := seen.free(node)):
            yield MakePod(check, rank, node, gpus, store=head.ip, domain=_domain(seen, check, node))


def _begin(seen: Seen, check: Check) -> MakePod:
    return MakePod(check, 0, check.nodes[0], seen.free(check.nodes[0]), domain=_domain(seen, check, check.nodes[0]))


def _domain(seen: Seen, check: Check, node: str) -> str:
    return dict(seen.nodes[node].labels).get(check.label, "") if node in seen.nodes else ""


# --- which checks begin ---


def _for_jobs(seen: Seen, groups: Iterable[_Group], busy: set[str]) -> Iterator[MakePod]:
    """Begin checks of the nodes that jobs wait for; adds to `busy`. Nodes that are chosen late get one of their own."""
    checks = [(g.check, g.live) for g in groups if g.check is not None]
    running = {check.job for check, live in checks if live}
    for asked in seen.asked:
        known = answers(seen.nodes.values(), seen.pods, asked.since)
        nodes = [n for n in asked.nodes if n not in known and n not in busy and seen.free(n)]
        if asked.job in running or not nodes:
            continue
        good = (n for n in asked.nodes if known.get(n) is Outcome.PASSED and n not in busy and seen.free(n))
        partners = list(good)[: max(0, PARTNERS + 1 - len(nodes))]
        members = (*partners, *nodes)
        busy.update(members)
        number = sum(check.job == asked.job and check.asked == asked.since for check, _ in checks)
        why = f"{asked.why} of job {asked.job}"
        yield _begin(seen, Check(members, asked.depth, seen.resource, asked.since, why, asked.job, asked.label, number))


def _for_suspects(seen: Seen, groups: Iterable[_Group], busy: set[str], answered: set[str]) -> Iterator[MakePod]:
    """Begin checks of suspects, the oldest suspicion first; adds to `busy`. Those `answered` have no note yet."""
    wanted = {node for asked in seen.asked for node in asked.nodes}
    checks = [(g.check, g.live) for g in groups if g.check is not None and not g.check.job]
    # While the pods of a check are kept that learnt nothing of its suspect, it is not begun anew.
    resting = answered | {pod.node for pod in seen.pods if pod.outcome is Outcome.UNKNOWN}
    tried = {(check.nodes[-1], check.asked) for check, _ in checks}
    running = sum(live for _, live in checks)
    for suspect in sorted(seen.suspects, key=lambda s: (s.at, s.node)):
        if running >= AT_ONCE:
            return
        if suspect.node in busy | wanted | resting or (suspect.node, suspect.at) in tried:
            continue
        if not seen.idle(suspect.node):
            continue
        partners = _partners(seen, suspect.node, busy | wanted)
        members = (*partners, suspect.node)
        busy.update(members)
        running += 1
        yield _begin(seen, Check(members, Depth.QUICK, seen.resource, suspect.at, suspect.why))


def _partners(seen: Seen, suspect: str, taken: set[str]) -> tuple[str, ...]:
    """Return free nodes of the same shape against which nothing speaks, those that passed a check first."""
    gpus, others = seen.nodes[suspect].gpus, {s.node for s in seen.suspects}
    wanted = Constraints(tolerations=(of_resource(seen.resource),))
    good = [
        n
        for n in seen.nodes.values()
        if n.name != suspect and n.gpus == gpus and n.used == 0 and n.name not in taken and n.name not in others
        and fits(n, gpus, wanted) and n.held is None and (n.check is None or n.check.passed)
    ]  # fmt: skip
    return tuple(n.name for n in sorted(good, key=lambda n: (n.check is None, n.name))[:PARTNERS])
