"""What was seen outside the API server: checkpoints in the store, and what the trainers say."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.snapshot import CheckpointView, PodPhase, PodRecord, Snapshot
from internlm2_operator.runtime.world import World
from internlm2_spec.contract import Progress


@dataclass(frozen=True, slots=True)
class Look:
    """One look into the store: for which stage, after which pods had ended, and what was there."""

    stage: int
    ended: frozenset[str]
    view: CheckpointView
    missing: tuple[str, ...] = ()


@dataclass(slots=True)
class Observed:
    looks: dict[str, Look] = field(default_factory=dict)  # by job key
    progress: dict[str, Progress] = field(default_factory=dict)  # by pod uid, the last answer while the pod exists
    written: dict[str, datetime] = field(default_factory=dict)  # when we wrote a job's status, by key
    _highest: dict[str, tuple[int, int]] = field(default_factory=dict)  # by key: stage, step

    def look(self, job: InternLM2Job) -> Look | None:
        """Return the newest look at the job's current stage."""
        look = self.looks.get(job.key)
        return look if look and look.stage == job.status.stage_index else None

    def stale(self, job: InternLM2Job, pods: Sequence[PodRecord]) -> bool:
        """Say whether a pod has ended since the store was looked at.

        Success is proved by the final manifest: judging an exit by an older look would restart a
        job that is complete.
        """
        look = self.look(job)
        return look is None or not ended(pods) <= look.ended

    def forget(self, key: str) -> None:
        for known in (self.looks, self.written, self._highest):
            known.pop(key, None)

    def hear(self, pod: PodRecord, said: Progress) -> None:
        """Keep an answer, and the highest step of the stage, which a restart from a checkpoint does not lower."""
        self.progress[pod.uid] = said
        key = f"{pod.namespace}/{pod.job}"
        self._highest[key] = max(self._highest.get(key, (pod.stage, said.step)), (pod.stage, said.step))

    def highest_step(self, job: InternLM2Job) -> int | None:
        stage, step = self._highest.get(job.key, (-1, 0))
        return step if stage == job.status.stage_index else None

    def snapshot(self, job: InternLM2Job, world: World) -> Snapshot:
        pods, look = world.pods(job.key), self.look(job)
        return Snapshot(
            job=job,
            pods=pods,
            nodes=world.nodes(job.spec.nodes.resource_name),
            checkpoint=look.view if look else None,
            progress=tuple((pod.name, self.progress[pod.uid]) for pod in pods if pod.uid in self.progress),
            missing=look.missing if look else (),
            highest_step=self.highest_step(job),
            status_written=self.written.get(job.key),
        )


def ended(pods: Sequence[PodRecord]) -> frozenset[str]:
    """Return the uids of pods that have ended."""
    return frozenset(pod.uid for pod in pods if pod.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED))
