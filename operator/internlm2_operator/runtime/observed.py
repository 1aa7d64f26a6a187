"""What was seen outside the API server: checkpoints in the store, and what the trainers say."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.rulebook import Rulebook
from internlm2_operator.plan.snapshot import ENDED, CheckpointView, Heard, PodRecord, Refusal, Snapshot
from internlm2_operator.runtime.lines import Lines
from internlm2_operator.runtime.world import World
from internlm2_spec.contract import Progress

# The first connection of a silence may have been open before it; the second is a new one, which proves a way there.
PROVEN: Final = 2


@dataclass(frozen=True, slots=True)
class Look:
    """One look into the store: for which stage, after the end of which pods, and what was there."""

    stage: int
    ended: frozenset[str]
    lost: int  # pods that were gone before their end was seen
    view: CheckpointView
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class Observed:
    looks: dict[str, Look] = field(default_factory=dict)  # by job key
    progress: dict[str, Progress] = field(default_factory=dict)  # by pod uid, the last answer while the pod exists
    written: dict[str, datetime] = field(default_factory=dict)  # when we wrote a job's status, by key
    refused: dict[str, Refusal] = field(default_factory=dict)  # the last pod of a job that was not let in, by key
    rulebook: Rulebook = field(default_factory=Rulebook)  # of rank logs, with what the cluster adds
    # By a clock that runs only while trainers are listened to: when a pod was first asked or last said something new,
    # and when it last answered.
    listened: float = 0.0
    _moved: dict[str, float] = field(default_factory=dict)  # by pod uid
    _answered: dict[str, float] = field(default_factory=dict)  # by pod uid
    _mute: set[str] = field(default_factory=set)  # uids of pods that did not even refuse when they were asked last
    _taken: dict[str, int] = field(default_factory=dict)  # by pod uid: connections in this silence that it took
    _highest: dict[str, tuple[int, int]] = field(default_factory=dict)  # by key: stage, step

    def look(self, job: InternLM2Job) -> Look | None:
        """Return the newest look at the job's current stage."""
        look = self.looks.get(job.key)
        return look if look and look.stage == job.status.stage_index else None

    def stale(self, job: InternLM2Job, world: World) -> bool:
        """Say whether a pod has ended or is gone since the store was looked at.

        Success is proved by the final manifest: judging an exit by an older look would restart a
        job that is complete.
        """
        look = self.look(job)
        return look is None or world.lost(job.key) != look.lost or not ended(world.pods(job.key)) <= look.ended

    def forget(self, key: str) -> None:
        for known in (self.looks, self.written, self.refused, self._highest):
            known.pop(key, None)

    def hear(self, pod: PodRecord, said: Progress) -> None:
        """Keep an answer, and the highest step of the stage, which a restart from a checkpoint does not lower."""
        if _movement(self.progress.get(pod.uid)) != _movement(said):
            self._moved[pod.uid] = self.listened
        self.progress[pod.uid] = said
        self._answered[pod.uid] = self.listened
        self._mute.discard(pod.uid)
        self._taken.pop(pod.uid, None)
        key = f"{pod.namespace}/{pod.job}"
        self._highest[key] = max(self._highest.get(key, (pod.stage, said.step)), (pod.stage, said.step))

    def miss(self, uid: str, *, mute: bool, taken: bool = False) -> None:
        """Note that a pod was asked and said nothing; `mute` says that it did not refuse either.

        `taken` says that its kernel took the connection, as it does for a stopped process until its queue is full.
        """
        self._moved.setdefault(uid, self.listened)
        self._answered.setdefault(uid, self.listened)
        (self._mute.add if mute else self._mute.discard)(uid)
        if not mute:
            self._taken.pop(uid, None)
        elif taken:
            self._taken[uid] = self._taken.get(uid, 0) + 1

    def silence(self, pods: Iterable[PodRecord]) -> timedelta | None:
        """Return how long ago one of these pods answered, None where none of them ever did."""
        times = [self._answered[pod.uid] for pod in pods if pod.uid in self.progress]
        return timedelta(seconds=self.listened - max(times)) if times else None

    def forget_pods(self, there: Collection[str]) -> None:
        """Keep what was heard of these pods alone."""
        for uid in self._moved.keys() - there:
            for known in (self.progress, self._moved, self._answered, self._taken):
                known.pop(uid, None)
            self._mute.discard(uid)

    def heard(self, pods: Iterable[PodRecord]) -> Iterator[tuple[str, Heard]]:
        """Yield by name how long ago the pods that were ever asked moved and answered."""
        for pod in pods:
            if pod.uid in self._moved:
                still, silent = self.listened - self._moved[pod.uid], self.listened - self._answered[pod.uid]
                stopped = self._taken.get(pod.uid, 0) >= PROVEN
                yield pod.name, Heard(still, silent, mute=pod.uid in self._mute, stopped=stopped)

    def highest_step(self, job: InternLM2Job) -> int | None:
        stage, step = self._highest.get(job.key, (-1, 0))
        return step if stage == job.status.stage_index else None

    def snapshot(self, job: InternLM2Job, world: World, lines: Lines, *, hold: float = 0.0) -> Snapshot:
        pods, look = world.pods(job.key), self.look(job)
        queue, waiting = lines.view(job)
        return Snapshot(
            job=job,
            pods=pods,
            nodes=world.nodes(job.spec.nodes.resource_name),
            checkpoint=look.view if look else None,
            progress={pod.name: self.progress[pod.uid] for pod in pods if pod.uid in self.progress},
            missing=look.missing if look else (),
            highest_step=self.highest_step(job),
            status_written=self.written.get(job.key),
            refused=self.refused.get(job.key),
            heard=dict(self.heard(pods)),
            hold=hold,
            jobs=len(world.jobs),
            queue=queue,
            waiting_jobs=waiting,
            rulebook=self.rulebook,
            checks=world.checks,
        )


def _movement(said: Progress | None) -> tuple[object, ...] | None:
    """Return what moves in what a trainer says: anything else may go on in one that stands still."""
    if said is None:
        return None
    return said.phase, said.incarnation, said.started_time, said.step, said.step_time, said.checkpoint_step


def ended(pods: Sequence[PodRecord]) -> frozenset[str]:
    """Return the uids of pods that have ended."""
    return frozenset(pod.uid for pod in pods if pod.phase in ENDED)
