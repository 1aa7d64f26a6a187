"""Looks into the checkpoint stores of all jobs, each job every few seconds, at once when a pod has ended."""

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cluster import checkpoints, errors
from internlm2_operator.cluster.checkpoints import CheckpointIndex, Credentials, Place, StoreProblem
from internlm2_operator.cluster.gateway import Gateway
from internlm2_operator.plan.snapshot import CheckpointView, PodRecord
from internlm2_operator.runtime.observed import Look, Observed, ended
from internlm2_operator.runtime.world import World
from internlm2_spec.contract import FailureClass, Progress

SECRET_SECONDS: Final = 30.0
"""How long a Secret that works is not read again."""


@dataclass(frozen=True, slots=True)
class _Read:
    at: float
    credentials: Credentials


class Looker:
    """Makes `Look`s. One look at a job at a time; many jobs at once, bounded."""

    def __init__(self, gateway: Gateway, world: World, observed: Observed, *, at_once: int = 16) -> None:
        self._gateway = gateway
        self._world = world
        self._observed = observed
        self._index = CheckpointIndex()
        self._slots = asyncio.Semaphore(at_once)
        # A store that answers slowly holds up its own namespace before it holds up all.
        self._shares = defaultdict[str, asyncio.Semaphore](lambda: asyncio.Semaphore(max(1, at_once // 4)))
        self._secrets: dict[tuple[str, str], _Read] = {}

    async def look(self, key: str) -> bool:
        """Look at the current stage of a job; True when something is new.

        Raises:
            ClusterError: the Secret could not be read for a reason that is not the user's.
        """
        job = self._world.jobs.get(key)
        if job is None:
            return False
        pods, lost = self._world.pods(key), self._world.lost(key)
        before = self._observed.looks.get(key)
        async with self._shares[job.namespace], self._slots:
            view, missing = await self._view(job, pods)
        view = replace(view, stage=job.spec.stages[job.status.stage_index].name)
        look = Look(stage=job.status.stage_index, ended=ended(pods), lost=lost, view=view, missing=missing)
        self._observed.looks[key] = look
        return look != before

    async def _view(self, job: InternLM2Job, pods: tuple[PodRecord, ...]) -> tuple[CheckpointView, tuple[str, ...]]:
        if not job.spec.checkpoint.url.startswith("s3://"):
            return reported(job, pods, self._observed.progress), ()
        stage = job.spec.stages[job.status.stage_index]
        place = Place(url=job.spec.checkpoint.url, stage=stage.name, data_urls=stage.data.urls)
        name = job.spec.checkpoint.secret_name or ""
        try:
            credentials = await self._credentials(job.namespace, name)
        except errors.NotFound:
            why = f"Secret {name} does not exist in namespace {job.namespace}; create it"
            return CheckpointView(problem=checkpoints.SECRET_MISSING, message=why), (f"secret/{name}",)
        except StoreProblem as problem:
            return CheckpointView(problem=problem.reason, message=str(problem)), ()
        view = await self._index.look(place, credentials)
        if view.problem:
            # Perhaps the Secret was corrected meanwhile.
            self._secrets.pop((job.namespace, name), None)
        return view, ()

    async def _credentials(self, namespace: str, name: str) -> Credentials:
        now = asyncio.get_running_loop().time()
        known = self._secrets.get((namespace, name))
        if known is None or now - known.at > SECRET_SECONDS:
            secret: dict[str, Any] = await self._gateway.secret(namespace, name)
            known = _Read(now, checkpoints.credentials_of(secret))
            self._secrets[namespace, name] = known
        return known.credentials


def reported(job: InternLM2Job, pods: tuple[PodRecord, ...], progress: dict[str, Progress]) -> CheckpointView:
    """Return what the trainers themselves say, for a store on a volume that the operator cannot see.

    The status keeps the newest step over an operator restart; a trainer that ended well says in its
    termination message which step it saved last.
    """
    stage = job.status.stage_index
    mine = [pod for pod in pods if pod.stage == stage]
    steps: list[tuple[int, datetime | None]] = []
    if job.status.checkpoint and f"/{job.spec.stages[stage].name}/" in job.status.checkpoint.url + "/":
        steps.append((job.status.checkpoint.step, job.status.checkpoint.time))
    for pod in mine:
        said = progress.get(pod.uid)
        if said and said.checkpoint_step is not None:
            at = datetime.fromtimestamp(said.checkpoint_time, UTC) if said.checkpoint_time else None
            steps.append((said.checkpoint_step, at))
        end = pod.termination
        if end and end.failure in (FailureClass.DONE, FailureClass.STOPPED) and end.step is not None:
            steps.append((end.step, pod.finished))
    if not steps:
        return CheckpointView()
    step, at = max(steps, key=lambda s: s[0])
    return CheckpointView(verified=step, time=at)
