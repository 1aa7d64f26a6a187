"""Deal the faults to one job and write down what came of each; nobody helps the job.

Machines that broke are replaced or mended as a data centre would do it, which the outcome names, and taken back into
service: the lab's `heal` of that node.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from internlm2_operator.health.diagnose import COMMON_NODES, COMMON_WITHIN
from lab import scene
from lab.chaos.cordons import CordonWatch
from lab.chaos.deck import Hits, Planned
from lab.cluster import Lab
from lab.settings import LabError
from lab.view import say
from lab.watch import JobWatch, Seen

LOOK_SECONDS: Final = 0.25
SETTLED_WITHIN: Final = 400.0
INJECTED_WITHIN: Final = 60.0
# A machine is taken away once the job goes on without it, or after so long.
REPAIRED_AFTER: Final = 60.0
STEPS_BETWEEN: Final = 4  # one or two may have been on their way
# The same XID on so many nodes of a job at once is the program's or the fabric's, and rightly cordons nobody.
ALIKE: Final = COMMON_NODES - 1
ALIKE_WITHIN: Final = COMMON_WITHIN.total_seconds() + 10.0  # what the metrics of the last one may be late
ENDED: Final = ("Succeeded", "Failed")


@dataclass(slots=True)
class Outcome:
    """One fault as it was: times are seconds since the epoch."""

    planned: Planned
    record: dict[str, Any]
    pod: str
    node: str
    known: frozenset[str]  # faults of the job that had been recorded before
    step: int
    arrived: int  # how many lines of steps had come; clocks of pods may lie
    undone: float | None = None
    repaired: float | None = None
    settled: float | None = None

    @property
    def injected(self) -> float:
        return float(self.record["time"])


class Unsettled(Exception):
    """The job did not get well within the time that it has."""


@dataclass(slots=True)
class Run:
    """One job under the faults of `plan`."""

    lab: Lab
    watch: JobWatch
    plan: tuple[Planned, ...]
    prefix: str  # bucket/job
    cordons: CordonWatch
    outcomes: list[Outcome] = field(default_factory=list)

    def play(self) -> None:
        """Inject every fault and wait for the end of the job.

        Raises:
            Unsettled: it did not get well, or ended before the last fault.
        """
        self._until(lambda s: s.checkpoint >= 1 and s.last_step >= 5 and _full(s), "the first checkpoint")
        for planned in self.plan:
            self._one(planned)
        self._settle(len(self.plan) + 1)
        self._until(lambda _: not self._open(), "machines mended at the end", ended=True, whole=True)
        self._until(lambda s: s.status.get("phase") in ENDED, "the end of the job", seconds=3600, ended=True)

    def _one(self, planned: Planned) -> None:
        if not planned.early:
            self._settle(planned.number)
        self._wait(planned.pause)
        if planned.card.repaired:
            self._until(lambda _: not self._broken(), f"machines mended before {planned.name}", whole=True)
            self._until(_spared, f"a spare before {planned.name}")
        self._until(lambda _: self._alike(planned) < ALIKE, f"a minute before one more {planned.name}")
        self.outcomes.append(self._inject(planned))
        say(self._words(self.outcomes[-1]))

    def _inject(self, planned: Planned) -> Outcome:
        """Break it; a pod that has no ranks at this moment has some soon."""
        deadline = time.monotonic() + INJECTED_WITHIN
        while True:
            seen = self.watch.seen
            known, step, arrived = frozenset(seen.history), seen.last_step, len(seen.steps)
            try:
                pod, node = ("", "")
                if planned.card.hits is not Hits.NOBODY:
                    pod, node = seen.member(first=planned.card.hits is Hits.FIRST)
                record = self.lab.fault(planned.card.fault, **self._options(planned, pod, node))
                return Outcome(planned, record, pod, node, known, step, arrived)
            except (LabError, RuntimeError) as error:
                if time.monotonic() > deadline:
                    raise Unsettled(f"{planned.name} could not be injected: {error}") from error
                self._wait(1.0)

    def _options(self, planned: Planned, pod: str, node: str) -> dict[str, Any]:
        card = planned.card
        if card.hits is Hits.NOBODY:
            return {"prefix": self.prefix}
        return {"node": node, "pod": f"default/{pod}", "gpu": planned.gpu, "xid": card.xid, "by": card.by}

    def _settle(self, number: int) -> None:
        """Wait until the last fault is over: recorded and closed where it has to be, and steps since."""
        if not self.outcomes:
            return
        group = [o for o in self.outcomes if o.settled is None]
        self._until(lambda s: _full(s) and all(self._over(o, s) for o in group), f"a settled job before fault {number}")
        for outcome in group:
            outcome.settled = time.time()

    def _over(self, outcome: Outcome, seen: Seen) -> bool:
        if outcome.planned.seconds is not None and outcome.undone is None:
            return False
        card = outcome.planned.card
        if card.recorded and not outcome.planned.early and not set(seen.history) - outcome.known:
            return False
        # torchrun may go on with the spare before Kubernetes calls the node dead.
        if card.cordoned and not self.cordons.on(outcome.node, since=outcome.injected):
            return False
        fresh = {s.step for s in seen.steps[outcome.arrived :]}
        return not seen.open and len(fresh) >= STEPS_BETWEEN

    def _open(self) -> list[Outcome]:
        """Return what somebody has still to undo or repair."""
        return [
            o
            for o in self.outcomes
            if (o.planned.seconds is not None and o.undone is None) or (o.planned.card.repaired and o.repaired is None)
        ]

    def _alike(self, planned: Planned) -> int:
        """Count the faults of the last minute with the same XID."""
        xid, now = planned.card.xid, time.time()
        recent = [o.planned.card.xid for o in self.outcomes if now - o.injected < ALIKE_WITHIN]
        return recent.count(xid) if xid is not None else 0

    def _broken(self) -> list[Outcome]:
        return [o for o in self._open() if o.planned.card.repaired]

    def _tick(self, *, whole: bool = False) -> None:
        """Undo what has lasted long enough, and repair machines that the job goes on without; `whole`: now."""
        for outcome in self._open():
            try:
                self._help(outcome, whole=whole)
            except LabError as error:
                if self.lab.answers():
                    raise Unsettled(f"{outcome.planned.name} could not be undone: {error}") from error
        time.sleep(LOOK_SECONDS)

    def _help(self, outcome: Outcome, *, whole: bool) -> None:
        lasted = time.time() - outcome.injected
        if outcome.planned.seconds is not None and outcome.undone is None:
            if lasted >= outcome.planned.seconds:
                self.lab.undo(outcome.record)
                outcome.undone, outcome.arrived = time.time(), len(self.watch.seen.steps)
        elif self._headless():
            return
        elif ((whole or lasted > REPAIRED_AFTER) and self._noticed(outcome)) or self._over(outcome, self.watch.seen):
            self.lab.heal(outcome.node)
            outcome.repaired = time.time()

    def _noticed(self, outcome: Outcome) -> bool:
        """Say whether the cordon is there that has to come: an operator that was killed may need longer."""
        return not outcome.planned.card.cordoned or self.cordons.on(outcome.node, since=outcome.injected)

    def _headless(self) -> bool:
        """Say whether the API server is away by a fault of ours, so that nobody can repair."""
        return any(o.planned.card.fault == "apiserver-kill" and o.undone is None for o in self.outcomes)

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self._tick()

    def _until(
        self, well: Callable[[Seen], bool], what: str, *,
        seconds: float = SETTLED_WITHIN, ended: bool = False, whole: bool = False,
    ) -> None:  # fmt: skip
        deadline = time.monotonic() + seconds
        while not well(self.watch.seen):
            self._tick(whole=whole)
            status = self.watch.seen.status
            if not ended and status.get("phase") in ENDED:
                raise Unsettled(f"{what}: the job ended {status['phase']}; give it more --steps-per-fault")
            if time.monotonic() > deadline:
                raise Unsettled(f"{what}: not within {seconds:.0f} s: {_brief(self.watch.seen)}")

    def _words(self, outcome: Outcome) -> str:
        planned = outcome.planned
        where = f" {outcome.node} ({outcome.pod})" if outcome.node else ""
        lasts = f", {planned.seconds:.0f} s" if planned.seconds is not None else ""
        early = ", before the job was well" if planned.early else ""
        return (
            f"[{planned.number}/{len(self.plan)}] step {outcome.step}: {planned.name}{where}{lasts}{early}"
            f" | faults recorded {len(outcome.known)}, cordons {len(self.cordons.seen)}"
        )


def _spared(seen: Seen) -> bool:
    """Say whether all members and the spare run."""
    return int((seen.status.get("nodes") or {}).get("ready", 0)) >= 3


def _full(seen: Seen) -> bool:
    return seen.status.get("phase") == "Running" and _spared(seen)


def _brief(seen: Seen) -> str:
    keys = ("phase", "attempt", "step", "nodes")
    status = {key: seen.status.get(key) for key in keys}
    conditions = {c["type"]: c.get("message", "") for c in seen.status.get("conditions", []) if c["status"] != "True"}
    return f"{status}; open {seen.open}; {conditions}; pods {seen.pods}"


def finish(name: str) -> None:
    """Delete a job with its checkpoints."""
    scene.kubectl("delete", "internlm2job", name, "--ignore-not-found", "--wait=true")
    scene.delete_checkpoints(name)
