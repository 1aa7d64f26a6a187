"""Turns the intents of a plan into calls. Nothing is decided here."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cluster.gateway import Gateway, Object
from internlm2_operator.manifests import config_map, event, network_policy, pod, service
from internlm2_operator.plan.actions import (
    Action,
    Announce,
    CreatePod,
    DeleteJob,
    DeletePod,
    EnsureConfigMap,
    EnsureService,
)

AT_ONCE: Final = 32
"""Pod creations in flight: the API server answers each in a few milliseconds, the rest is waiting."""


class Applier:
    """Applies actions; the answers go into the cache at once, because the watch comes later than the next plan."""

    def __init__(
        self, gateway: Gateway, *, saw_pod: Callable[[Object], object], lost_pod: Callable[[str, str], None]
    ) -> None:
        self._gateway = gateway
        self._saw_pod = saw_pod
        self._lost_pod = lost_pod  # job key, uid
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def apply(self, job: InternLM2Job, actions: Sequence[Action]) -> None:
        """Apply in order; neighbouring actions of one kind go out together.

        Raises:
            ClusterError: the first failure; actions of later kinds were not begun.
        """
        for group in _runs(actions):
            done = await asyncio.gather(*(self._one(job, action) for action in group), return_exceptions=True)
            failures = [outcome for outcome in done if isinstance(outcome, BaseException)]
            if failures:
                raise failures[0]

    async def announce(self, job: InternLM2Job, actions: Sequence[Action], now: datetime) -> None:
        """Send the events, which belong after the status that they talk about."""
        for action in actions:
            if isinstance(action, Announce):
                await self._gateway.record_event(event.event(job, action, now))

    async def _one(self, job: InternLM2Job, action: Action) -> None:
        async with self._slots:
            match action:
                case EnsureService():
                    await self._gateway.apply(service.service(job))
                    await self._gateway.apply(network_policy.network_policy(job))
                case EnsureConfigMap(stage=stage):
                    await self._gateway.apply(config_map.config_map(job, stage))
                case CreatePod():
                    self._saw_pod(await self._gateway.create_pod(pod.pod(job, action)))
                case DeletePod():
                    await self._delete(job, action)
                case DeleteJob():
                    await self._gateway.delete_job(job.namespace, job.name, uid=job.uid, version=job.resource_version)
                case Announce():
                    pass

    async def _delete(self, job: InternLM2Job, action: DeletePod) -> None:
        stopping = await self._gateway.delete_pod(
            job.namespace, action.name, uid=action.uid, grace_seconds=action.grace_seconds, force=action.force
        )
        if stopping is None:
            self._lost_pod(job.key, action.uid)
        else:
            self._saw_pod(stopping)


def _runs(actions: Sequence[Action]) -> list[list[Action]]:
    """Split into runs of one kind."""
    runs: list[list[Action]] = []
    for action in actions:
        if runs and type(runs[-1][0]) is type(action):
            runs[-1].append(action)
        else:
            runs.append([action])
    return runs
