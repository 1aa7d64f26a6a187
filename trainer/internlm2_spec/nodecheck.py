"""The node check: who meets whom, what a measurement is worth, and which nodes it finds at fault.

Each node measures itself, then nodes meet in pairs and all-reduce. A pair says nothing of which of the two is at
fault, so everyone of a pair that was slow or broke meets a known-good node next: the scheme of Acme (arXiv 2403.07648).
Compute, memory, links within the node and the network are judged apart: in one sum a network five times too slow
hides behind the matmul. `docs/nodecheck.md` explains the limits and where they come from.
"""

import enum
import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, TypeGuard

from internlm2_spec import gpus, pairing
from internlm2_spec.cluster import BUS

# A pair that hangs is given up after this; NCCL's own default is ten minutes, torch's thirty.
PAIR_SECONDS: Final = 20.0

# Below this part of the median a node or a pair is slow. Twice the median is what DLRover takes for a straggler; GPUs
# of one node differ by 5 % and more when all are well, and a CPU under a neighbour's load by much more.
SLOW: Final = 0.5

# H100s at 8192^3 were seen at 520 TFLOP/s with an old toolkit and at 750 with a new one: 0.7 of 794.5 is 556. Where
# most nodes miss it the expectation is wrong, and the median takes its place.
COMPUTE_FLOOR: Final = 0.7

# Where every pair of the first round failed, other pairs are tried: so many rounds, each as long as a hang.
SEARCH_ROUNDS: Final = 3


class Part(enum.StrEnum):
    """What is measured; each is judged by itself."""

    COMPUTE = "compute"
    MEMORY = "memory"
    INTRA_NODE = "intraNode"
    INTER_NODE = "interNode"


class Ended(enum.StrEnum):
    """How a measurement ended."""

    OK = "ok"
    FAILED = "failed"
    HUNG = "hung"
    LOST = "lost"  # the others went away: a symptom


class State(enum.StrEnum):
    """What a node is found to be; the worst of its parts, which is the last of these."""

    GOOD = "good"
    UNKNOWN = "unknown"
    SLOW = "slow"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Failure:
    """A part of a node that gave no measurement."""

    part: Part
    ended: Ended
    why: str = ""


@dataclass(frozen=True, slots=True)
class Local:
    """What a node measured of itself: FLOP/s and bytes/s of its slowest device, None where there is nothing to measure.

    `device` is the driver's name of the devices. `memory` is the rate of writing and reading patterns, `wrong_bytes`
    how many came back other than they were written; `intra_node` the bus bandwidth of its devices among themselves.
    """

    node: str
    device: str = ""
    compute: float | None = None
    memory: float | None = None
    intra_node: float | None = None
    wrong_bytes: int = 0
    failures: tuple[Failure, ...] = ()

    def value(self, part: Part) -> float | None:
        """Return the measurement of a part."""
        return {Part.COMPUTE: self.compute, Part.MEMORY: self.memory, Part.INTRA_NODE: self.intra_node}.get(part)

    def with_second(self, second: "Local") -> "Local":
        """Return the better rates of two measurements, and what was wrong in either."""
        return replace(
            self,
            compute=_better(self.compute, second.compute),
            memory=_better(self.memory, second.memory),
            intra_node=_better(self.intra_node, second.intra_node),
            wrong_bytes=self.wrong_bytes + second.wrong_bytes,
            failures=self.failures + second.failures,
        )

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Local":
        """Raise ValueError for text that is not one."""
        try:
            fields: dict[str, Any] = json.loads(text)
            told = [Failure(Part(f["part"]), Ended(f["ended"]), str(f["why"])) for f in fields.pop("failures")]
            return cls(**fields, failures=tuple(told))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a measurement: {error}") from error


def _better(first: float | None, second: float | None) -> float | None:
    return max((rate for rate in (first, second) if rate is not None), default=None)


@dataclass(frozen=True, slots=True)
class Meeting:
    """An all-reduce of two nodes, or of three: its bus bandwidth in bytes/s, which does not depend on how many met."""

    members: tuple[str, ...]
    ended: Ended = Ended.OK
    bus: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """All that is known so far. `domains` tells the switch of each node where it is known."""

    nodes: tuple[str, ...]
    locals: tuple[Local, ...] = ()
    rounds: tuple[tuple[Meeting, ...], ...] = ()
    domains: Mapping[str, str] = field(default_factory=dict)

    def after(self, meetings: Iterable[Meeting]) -> "Check":
        """Return the check with one more round."""
        return replace(self, rounds=(*self.rounds, tuple(meetings)))


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with one part of a node, in words for a person."""

    part: Part
    state: State
    what: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a node is found to be, why, and each part it measured relative to what was expected."""

    node: str
    state: State
    findings: tuple[Finding, ...]
    scores: Mapping[Part, float]


@dataclass(frozen=True, slots=True)
class Report:
    """The end of a check. `paths` are nodes that failed together and are good apart: look at what is between them."""

    verdicts: tuple[Verdict, ...]
    paths: tuple[tuple[str, ...], ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Report":
        """Raise ValueError for text that is not one."""
        try:
            fields: dict[str, Any] = json.loads(text)
            return cls(tuple(map(_verdict, fields["verdicts"])), tuple(map(tuple, fields["paths"])))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a report: {error}") from error


def _verdict(fields: Mapping[str, Any]) -> Verdict:
    findings = tuple(Finding(Part(f["part"]), State(f["state"]), str(f["what"])) for f in fields["findings"])
    scores = {Part(part): float(score) for part, score in fields["scores"].items()}
    return Verdict(str(fields["node"]), State(fields["state"]), findings, scores)


# --- who meets whom ---


def next_round(check: Check) -> tuple[tuple[str, ...], ...]:
    """Return who meets next, () once nothing more can be learned.

    Nodes that their own measurements found at fault meet nobody. After the first round each suspect meets a known-good
    node, of its own domain where there is one, so that a path between switches cannot speak against it. A known-good
    node serves one suspect a round.
    """
    if not check.rounds:
        found = judged(check.locals)
        return pairing.first_round([local.node for local in check.locals if not found[local.node]], check.domains)
    good, _, suspects = settled(check)
    if not suspects:
        return ()
    met = tuple(m.members for each in check.rounds for m in each)
    if good:
        return pairing.with_good(suspects, good, check.domains, met)
    return pairing.strangers(suspects, met) if len(check.rounds) <= SEARCH_ROUNDS else ()


def settled(check: Check) -> tuple[list[str], list[str], list[str]]:
    """Return the nodes of the meetings so far: known good, at fault, and suspects still, each in the check's order.

    At fault is who met a known-good node and broke, or was slow then and in another meeting, too: a path is slow for a
    moment more easily than it breaks.
    """
    usual, good, bad = _usual(check.rounds), set[str](), set[str]()
    slow = Counter[str]()
    for meetings in check.rounds:
        before = frozenset(good)
        for meeting in meetings:
            others = [node for node in meeting.members if node not in before]
            if _fine(meeting, usual):
                good.update(others)
                continue
            slow.update(others if meeting.ended is Ended.OK else ())
            if len(others) == 1 and (meeting.ended is not Ended.OK or slow[others[0]] > 1):
                bad.update(others)
    met = {node for meetings in check.rounds for m in meetings for node in m.members}
    order = [node for node in check.nodes if node in met]
    return (
        [node for node in order if node in good],
        [node for node in order if node in bad and node not in good],
        [node for node in order if node not in good | bad],
    )


def _fine(meeting: Meeting, usual: float | None) -> bool:
    return meeting.ended is Ended.OK and _is_rate(meeting.bus) and meeting.bus >= SLOW * (usual or 0.0)


def _usual(rounds: Sequence[Sequence[Meeting]]) -> float | None:
    """Return the usual bandwidth: the median of the first round that has any; the better of the two in the middle.

    Later rounds are held to the first, because suspects are most of them. With a quarter of the nodes at fault half of
    the pairs may be slow, and then the lower middle is one of those.
    """
    of_rounds = ([m.bus for m in each if m.ended is Ended.OK and _is_rate(m.bus)] for each in rounds)
    return next((statistics.median_high(rates) for rates in of_rounds if rates), None)


# --- what a measurement is worth ---


def to_repeat(measured: Sequence[Local]) -> list[str]:
    """Return the nodes that measure themselves a second time: those found slow, which a moment can be to blame for."""
    found = judged(measured)
    return [local.node for local in measured if any(each.state is State.SLOW for each in found[local.node])]


def judged(measured: Sequence[Local]) -> dict[str, tuple[Finding, ...]]:
    """Return what each node's own measurements say against it."""
    expected = {part: _expected(measured, part) for part in _LOCAL_PARTS}
    return {
        local.node: tuple(found for part in _LOCAL_PARTS if (found := _judge(local, part, expected[part])))
        for local in measured
    }


_LOCAL_PARTS: Final = (Part.COMPUTE, Part.MEMORY, Part.INTRA_NODE)


@dataclass(frozen=True, slots=True)
class _Expected:
    """What a device should reach, from which part of it on it does, and who says so."""

    rate: float
    floor: float
    source: str


def _judge(local: Local, part: Part, expected: Mapping[str, _Expected]) -> Finding | None:
    for failure in local.failures:
        if failure.part is part:
            ended = "did not end in time" if failure.ended is Ended.HUNG else "failed"
            return Finding(part, State.BROKEN, f"{ended}: {failure.why}" if failure.why else ended)
    if part is Part.MEMORY and local.wrong_bytes:
        return Finding(part, State.BROKEN, f"{local.wrong_bytes:,} bytes came back other than they were written")
    rate = local.value(part)
    if rate is None:
        return None
    if not _is_rate(rate):
        return Finding(part, State.BROKEN, f"measured {rate}, which is no rate")
    against = expected.get(local.device)
    if against and rate < against.floor * against.rate:
        what = f"{_spoken(part, rate)}, {rate / against.rate:.2f} of {against.source} {_spoken(part, against.rate)}"
        return Finding(part, State.SLOW, f"{what}; at least {against.floor:g} is expected")
    return None


def _expected(measured: Sequence[Local], part: Part) -> dict[str, _Expected]:
    """Return what each kind of device should reach: as published, or as most of its kind here do."""
    expected = {}
    for device in {local.device for local in measured}:
        rates = [r for local in measured if local.device == device and _is_rate(r := local.value(part))]
        public = _published(device, part)
        if public and not _most_miss(rates, public.floor * public.rate):
            expected[device] = public
        elif rates:
            expected[device] = _Expected(statistics.median_high(rates), SLOW, "the nodes' median")
    return expected


def _published(device: str, part: Part) -> _Expected | None:
    gpu = gpus.by_device(device)
    if gpu is None:
        return None
    if part is Part.COMPUTE and gpu.name in gpus.MATMUL:
        return _Expected(gpus.MATMUL[gpu.name], COMPUTE_FLOOR, "the published")
    if part is Part.INTRA_NODE and gpus.has_switch(device):
        return _Expected(gpu.link * BUS, SLOW, "the published")
    return None


def _most_miss(rates: Sequence[float], floor: float) -> bool:
    missing = sum(rate < floor for rate in rates)
    return missing > 1 and 2 * missing > len(rates)


def _is_rate(rate: float | None) -> TypeGuard[float]:
    return rate is not None and math.isfinite(rate) and rate > 0


def _spoken(part: Part, rate: float) -> str:
    if part is Part.COMPUTE:
        return f"{rate / 1e12:.3g} TFLOP/s"
    return f"{rate / 1e9:.3g} GB/s"


# --- the end ---


def report(check: Check) -> Report:
    """Return what each node is found to be."""
    own, network, together = judged(check.locals), _network(check), _best_meetings(check)
    expected = {part: _expected(check.locals, part) for part in _LOCAL_PARTS}
    came = {local.node: local for local in check.locals}
    verdicts = []
    for node in check.nodes:
        found: tuple[Finding, ...] = (Finding(Part.COMPUTE, State.UNKNOWN, "it never came to the check"),)
        scores: dict[Part, float] = {}
        if node in came:
            found = own[node] + ((network[node],) if node in network else ())
            scores = _scores(came[node], expected) | together.get(node, {})
        state = max((f.state for f in found), key=list(State).index, default=State.GOOD)
        verdicts.append(Verdict(node, state, found, scores))
    good, usual = frozenset(settled(check)[0]), _usual(check.rounds)
    failed = (m.members for each in check.rounds for m in each if not _fine(m, usual))
    return Report(tuple(verdicts), tuple(members for members in failed if good.issuperset(members)))


def _network(check: Check) -> dict[str, Finding]:
    """Return what meetings say against nodes; what speaks against most of them, or a whole switch, blames none."""
    _, bad, suspects = settled(check)
    usual, met = _usual(check.rounds), {n for each in check.rounds for m in each for n in m.members}
    found = {node: _met_badly(check, node, usual) for node in bad}
    doubt = dict.fromkeys(suspects, "its pair failed, and there is no known-good node to tell who is at fault")
    if 2 * len(bad) > len(met):
        doubt |= {node: f"{len(bad)} of {len(met)} nodes failed alike: look at the network" for node in bad}
    for domain in {check.domains[node] for node in met if node in check.domains}:
        inside = [node for node in met if check.domains.get(node) == domain]
        if len(inside) > 1 and len(inside) < len(met) and found.keys() >= set(inside):
            doubt |= {node: f"so did all {len(inside)} nodes of {domain}: look at its switch" for node in inside}
    for node, why in doubt.items():
        what = f"{found[node].what}; {why}" if node in found else why
        found[node] = Finding(Part.INTER_NODE, State.UNKNOWN, what)
    return found


def _met_badly(check: Check, node: str, usual: float | None) -> Finding:
    """Return what the last meeting of a node at fault was: the one with a known-good node."""
    meeting = [m for each in check.rounds for m in each if node in m.members][-1]
    partners = " and ".join(member for member in meeting.members if member != node)
    if meeting.ended is Ended.OK and _is_rate(meeting.bus):
        rate, known = _spoken(Part.INTER_NODE, meeting.bus), _spoken(Part.INTER_NODE, usual or 0.0)
        return Finding(
            Part.INTER_NODE, State.SLOW, f"{rate} with {partners}, which is good; the pairs' median is {known}"
        )
    ended = "hung" if meeting.ended is Ended.HUNG else "failed"
    why = f": {meeting.why}" if meeting.why else ""
    return Finding(Part.INTER_NODE, State.BROKEN, f"{ended} with {partners}, which is good{why}")


def _scores(local: Local, expected: Mapping[Part, Mapping[str, _Expected]]) -> dict[Part, float]:
    return {
        part: round(rate / against.rate, 3)
        for part in _LOCAL_PARTS
        if _is_rate(rate := local.value(part)) and (against := expected[part].get(local.device))
    }


def _best_meetings(check: Check) -> dict[str, dict[Part, float]]:
    """Return the best meeting of each node, relative to the usual one."""
    usual, best = _usual(check.rounds) or math.inf, dict[str, float]()
    for meeting in (m for each in check.rounds for m in each if m.ended is Ended.OK):
        for node in meeting.members:
            best[node] = max(best.get(node, 0.0), meeting.bus if _is_rate(meeting.bus) else 0.0)
    return {node: {Part.INTER_NODE: round(rate / usual, 3)} for node, rate in best.items()}
