"""Looks into stores are shared among namespaces."""

import asyncio
from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.plan.snapshot import CheckpointView, PodRecord
from internlm2_operator.runtime.looks import Looker
from internlm2_operator.runtime.observed import Observed
from tests.unit.plan.world import job


class Jobs:
    """As much of the world as a look asks for: jobs without pods."""

    def __init__(self, *keys: str) -> None:
        made = job()
        self.jobs = {key: made.model_copy(update=dict(zip(("namespace", "name"), key.split("/")))) for key in keys}  # noqa: B905

    def pods(self, _: str) -> tuple[PodRecord, ...]:
        return ()

    def lost(self, _: str) -> int:
        return 0


class Slow(Looker):
    """Stores of namespace `slow` never answer."""

    async def _view(self, job: InternLM2Job, pods: tuple[PodRecord, ...]) -> tuple[CheckpointView, tuple[str, ...]]:
        if job.namespace == "slow" and not pods:
            await asyncio.Event().wait()
        return CheckpointView(), ()


async def looked(*keys: str) -> set[str]:
    """Return the jobs that were looked at, when looks began in this order and none went on."""
    world: Any = Jobs(*keys)
    observed = Observed()
    nothing: Any = None
    looker = Slow(nothing, world, observed, at_once=8)
    tasks = [asyncio.create_task(looker.look(key)) for key in keys]
    for _ in range(100):
        await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return set(observed.looks)


def test_stores_that_never_answer_hold_up_their_own_namespace_alone() -> None:
    slow = [f"slow/job-{n}" for n in range(50)]
    assert asyncio.run(looked(*slow, "other/a", "other/b")) == {"other/a", "other/b"}
