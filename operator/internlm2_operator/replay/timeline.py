"""What the operator would have heard of a case, moment by moment: the same parsers and edges, no cluster."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.health import condition, kernel
from internlm2_operator.health.diagnose import AGREEMENT, LINK_DOWN
from internlm2_operator.health.node import NodeRecord, not_ready
from internlm2_operator.health.rootcause import RankLine
from internlm2_operator.health.rules import Weight
from internlm2_operator.health.signals import Kind, Signal, Source
from internlm2_operator.health.xid import rule_of
from internlm2_operator.plan.cause import Kind as CauseKind
from internlm2_operator.plan.exits import End, exit_of, signal_of
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_operator.replay.case import START, Case, Observation
from internlm2_operator.replay.presence import lives
from internlm2_operator.replay.scrapes import Scrapes, failed
from internlm2_spec.contract import Termination

# A step that takes longer is a stall; in other phases nothing is known of how long they may take.
STALL_SECONDS: Final = 60.0
# Series of one node that are told within so long of each other are of one scrape.
SCRAPE: Final = timedelta(seconds=1)
_STEPPING: Final = "step"
# How others than our agent name a link, and a code, in the condition.
_LINK: Final = re.compile(r"(?i)(?:link|port)_?(?:is_?)?down")
_CODE: Final = re.compile(r"\b(s?)xid[ _:=#-]{0,2}0*([1-9]\d{0,5})\b", re.I | re.A)


@dataclass(slots=True)
class Heard:
    """Everything that was heard up to a moment."""

    case: Case
    signals: list[Signal] = field(default_factory=list)
    lines: list[RankLine] = field(default_factory=list)
    ends: list[PodRecord] = field(default_factory=list)
    progress: dict[tuple[str, int], Observation] = field(default_factory=dict)
    stalls: list[datetime] = field(default_factory=list)  # when hangs without a culprit were seen
    blind: bool = False
    _ready: dict[str, NodeRecord] = field(default_factory=dict)
    _told: dict[str, str] = field(default_factory=dict)  # by node: message of GPUHealthy
    _notices: dict[str, Signal] = field(default_factory=dict)
    _down: dict[str, Signal] = field(default_factory=dict)
    _links: dict[tuple[str, str], Signal] = field(default_factory=dict)  # that went down, by node and interface
    _up: set[tuple[str, str]] = field(default_factory=set)  # of these, the ones that are back
    _since: dict[tuple[str, int], datetime] = field(default_factory=dict)  # by rank: when it came to where it is
    _step: int = -1  # the highest that a rank was at, and when it was first seen there
    _stepped: datetime = START
    _scrapes: Scrapes = field(init=False)

    def __post_init__(self) -> None:
        self._scrapes = Scrapes(self.case)

    def standing(self) -> list[Signal]:
        """Return the edges, and the levels as they stand now."""
        levels = [s for node in self._ready.values() if (s := not_ready(node))]
        agent = [s for node, text in self._told.items() for s in condition.signals(node, condition.events(text))]
        noted = (*self._notices.values(), *self._down.values(), *self._links_down())
        return [self._of(s) for s in (*self.signals, *levels, *agent, *noted)]

    def risen(self, name: str, now: datetime) -> Iterator[Signal]:
        """Yield what was said of the links of other nodes that are up again, as `runtime.evidence` remembers it."""
        for link, signal in self._links.items():
            if link[0] != name and link in self._up and now - signal.at <= AGREEMENT:
                yield self._of(signal)

    def notice(self, node: str) -> str:
        """Return what announces the end of a node, empty when nothing does."""
        said = self._notices.get(node)
        return said.detail if said else ""

    def hear(self, at: datetime, seen: Sequence[Observation]) -> None:
        """Take everything that was observed at one moment."""
        metrics: list[Observation] = []
        seen = [failed(one) or one for one in seen]
        down = {one.node for one in seen if one.kind == "prometheus_down"}
        for one in seen:
            match one.kind:
                case "kernel_log":
                    self._kernel(one)
                case "metric":
                    metrics.append(one)
                case "node_condition":
                    self._condition(one)
                case "pod_exit":
                    self._pod(one)
                case "rank_log":
                    rank, text = one.fields.get("rank"), str(one.fields.get("line") or "")
                    number = rank if isinstance(rank, int) else 0
                    self.lines += [RankLine(at, one.node, number, line) for line in text.splitlines()]
                case "progress":
                    self._progress(one)
                case _:
                    self._prometheus_down(one)
        # What is not scraped is not absent.
        if scraped := [one for one in metrics if one.node not in down and "" not in down]:
            self.blind = False
            for node in {one.node for one in scraped}:
                self._down.pop(node, None)
            self.signals += self._scrapes.scrape(at, scraped)

    def _of(self, signal: Signal) -> Signal:
        return replace(signal, job=self.case.job_of(signal.node), domain=self.case.domains.get(signal.node, ""))

    def _kernel(self, one: Observation) -> None:
        if one.fields.get("facility", kernel.KERNEL) != kernel.KERNEL:
            return
        seen = kernel.read(kernel.printed(str(one.fields.get("line") or "")) or "")
        if isinstance(seen, kernel.LinkChanged) and seen.device:
            self._link(one, seen)
        elif seen is not None and (event := condition.event_of(seen, one.at)) is not None:
            self.signals += condition.signals(one.node, [event])

    def _link(self, one: Observation, seen: kernel.LinkChanged) -> None:
        """Take what the agent measures next: a link of the hardware stays down until the kernel has it up again."""
        link = (one.node, seen.interface)
        if seen.up:
            self._up.add(link)
            return
        self._up.discard(link)
        down = condition.event(LINK_DOWN, seen.interface, one.at, "the kernel's word")
        self._links[link] = next(condition.signals(one.node, [down]))

    def _links_down(self) -> Iterator[Signal]:
        """Yield the links that are down as far as is known: no agent says that one is up while its node is silent."""
        for link, signal in self._links.items():
            node = self._ready.get(link[0])
            if link not in self._up or (node is not None and not node.ready):
                yield signal

    def _condition(self, one: Observation) -> None:
        status, message = str(one.fields.get("status")), str(one.fields.get("message") or "")
        match one.fields.get("type"):
            case "Ready":
                self._ready[one.node] = self._node(one, ready=status == "True", says_no=status == "False")
            case condition.TYPE:
                self._told[one.node] = _agent_words(one, status, message)
            case "Maintenance" if status == "True":
                self._notices[one.node] = Signal(
                    Kind.CONDITION, Source.NODE, one.node, one.at, message or "a notice", reason="Maintenance"
                )
            case "Maintenance":
                self._notices.pop(one.node, None)

    def _node(self, one: Observation, *, ready: bool, says_no: bool) -> NodeRecord:
        known = self._ready.get(one.node)
        same = known is not None and (known.ready, known.says_no) == (ready, says_no)
        since = known.ready_since if known is not None and same else one.at
        excused = None if ready or says_no else lives(self.case, one.node, since)
        return NodeRecord(one.node, ready=ready, ready_since=since, gpus=0, says_no=says_no, excused=excused)

    def _pod(self, one: Observation) -> None:
        said = one.fields.get("termination")
        code = one.fields.get("code")
        slot = one.fields.get("slot")
        pod = PodRecord(
            name=f"pod-on-{one.node}", namespace="default", job=self.case.job_of(one.node), uid=f"pod-{len(self.ends)}",
            stage=0, attempt=1, slot=slot if isinstance(slot, int) else 0, replacement=0, node=one.node,
            phase=PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED, created=one.at, finished=one.at,
            exit_code=code if isinstance(code, int) else None, reason=str(one.fields.get("reason") or ""),
            message="" if said else str(one.fields.get("message") or ""),
            disruption=str(one.fields.get("disruption") or ""),
            termination=Termination.from_json(json.dumps(said)) if isinstance(said, Mapping) else None,
        )  # fmt: skip
        self.ends.append(pod)
        suspicion = signal_of(pod)
        if suspicion is not None:
            self.signals.append(suspicion)

    def _progress(self, one: Observation) -> None:
        rank, step = one.fields.get("rank"), one.fields.get("step")
        key = (one.node, rank if isinstance(rank, int) else 0)
        before = self.progress.get(key)
        if before is None or any(before.fields.get(name) != one.fields.get(name) for name in ("phase", "step")):
            self._since[key] = one.at
        self.progress[key] = one
        if isinstance(step, int) and step > self._step:
            self._step, self._stepped = step, one.at

    def _prometheus_down(self, one: Observation) -> None:
        if one.node:
            self._down[one.node] = Signal(Kind.EXPORTER_DOWN, Source.PROMETHEUS, one.node, one.at, "up is 0")
            self._scrapes.fail(one.node)
        else:
            self.blind = True

    def behind(self, now: datetime) -> tuple[str, int] | None:
        """Return node and rank of the one rank that is behind all others while everybody waits, if there is one."""
        waiting = self._waiting(now)
        if len(waiting) < 2 or len(waiting) != len(self.progress):
            return None
        steps = sorted((int(one.fields["step"]), key) for key, one in waiting.items())
        return steps[0][1] if steps[0][0] < steps[1][0] else None

    def stalled(self, now: datetime) -> bool:
        """Say whether a rank has been in one step for longer than a step may take."""
        return bool(self._waiting(now))

    def _waiting(self, now: datetime) -> dict[tuple[str, int], Observation]:
        return {
            key: one
            for key, one in self.progress.items()
            if one.fields.get("phase") == _STEPPING
            and isinstance(one.fields.get("step"), int)
            and self._held(key) + min((now - one.at).total_seconds(), 0) > STALL_SECONDS
        }

    def _held(self, key: tuple[str, int]) -> float:
        """Return for how many seconds a rank has been where it is: as it is told, or as its own reports show."""
        one = self.progress[key]
        told = one.fields.get("stalledSeconds")
        return max(told if isinstance(told, int | float) else 0.0, (one.at - self._since[key]).total_seconds())

    def user_ends(self) -> list[PodRecord]:
        """Return the pods whose end is the user's, or waits for something outside."""
        return [pod for pod in self.ends if (e := exit_of(pod)) and e.end in (End.USER, End.WAITING)]

    def stopped(self) -> bool:
        """Say whether a pod ended because somebody wanted it to."""
        return any((e := exit_of(pod)) and e.end in (End.STOPPED, End.DONE) for pod in self.ends)

    def taken(self) -> bool:
        """Say whether a pod ended because somebody else wanted its place, or its node."""
        return any((e := exit_of(pod)) and e.row.kind is CauseKind.REQUEST and pod.disruption for pod in self.ends)

    def lost(self) -> str:
        """Return the node of a pod that the cluster took away, or that was killed; empty when none was."""
        kinds = ((pod, e) for pod in self.ends if (e := exit_of(pod)) and e.end is End.LOST)
        return next((pod.node or "" for pod, e in kinds if e.row.kind is CauseKind.INFRASTRUCTURE), "")

    def fresh_lines(self) -> list[RankLine]:
        """Return the lines since the job was last seen to do steps: what came before did not stop it."""
        steps = [one.at for one in self.progress.values() if one.fields.get("phase") == _STEPPING]
        if not steps or self.stalled(max(steps)):
            return self.lines
        return [line for line in self.lines if line.at >= max(steps)]

    def stands_since(self, at: datetime) -> bool:
        """Say whether nobody was seen at a new step after that moment."""
        return self._stepped <= at

    def waits(self) -> bool:
        """Say whether a pod ended because something that it needs is not there."""
        return any((e := exit_of(pod)) and e.row.kind is CauseKind.WAITING for pod in self.ends)


def moments(case: Case) -> Iterator[tuple[datetime, list[Observation]]]:
    """Yield the case's moments in time order with what was observed at each."""
    by_time: dict[datetime, list[Observation]] = defaultdict(list)
    scrapes: dict[str, datetime] = {}  # by node: when the one that is being told began
    for one in case.seen:
        at = one.at
        if one.kind == "metric":
            began = scrapes.get(one.node, at)
            at = scrapes[one.node] = began if at - began < SCRAPE else at
        by_time[at].append(replace(one, at=at))
    yield from by_time.items()


def _agent_words(one: Observation, status: str, message: str) -> str:
    """Return the agent's message; where only a reason was recorded, it is taken as the one event.

    A line of the driver in the message, or a code as the reason, is that event however it is spelled. So is a code that
    speaks against no node, for which some health watch has taken the device out.
    """
    if condition.events(message) or status != "False":
        return message
    reason = str(one.fields.get("reason") or "")
    seen = kernel.read(kernel.printed(message) or "")
    if seen is not None and (event := condition.event_of(seen, one.at)) is not None:
        return condition.condition([event]).message
    if (code := _CODE.fullmatch(reason) or (None if condition.known(reason) else _harmless(message))) is not None:
        reason = f"{'SXid' if code[1] else 'Xid'}{code[2]}"
    if _LINK.search(reason):
        reason = LINK_DOWN
    if reason and not condition.known(reason):  # it is the agent's word all the same, and no user can write it
        reason, message = "GpuUnhealthy", f"{reason}: {message}"
    return condition.condition([condition.event(reason, "", one.at, message)]).message if reason else ""


def _harmless(message: str) -> re.Match[str] | None:
    """Return the first code of a text that names only such as speak against no node."""
    found = list(_CODE.finditer(message))
    harmless = all(not one[1] and rule_of(int(one[2])).weight is Weight.NOTHING for one in found)
    return found[0] if found and harmless else None
