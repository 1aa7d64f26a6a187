"""The size of a job follows its nodes: down when they die, up when they are repaired, never twice over a step."""

from collections.abc import Iterator
from typing import Final

import pytest

from internlm2_operator.api.status import Phase
from lab import scene
from lab.report import replayed
from lab.watch import JobWatch
from tests.e2e.world import World

POOL: Final = "training.example/elastic"
# Losses of a step that was done again at another size: other ranks, other accumulation, fp32.
ROUNDING: Final = 1e-3
CHANGES: Final = {
    "nodes": {"min": 1, "max": 2, "gpusPerNode": 2, "shrinkAfterSeconds": 5, "growAfterSeconds": 20},
    "stages__0__parallel": {"tensor": 2, "microBatch": 16},
    "stages__0__steps": 4000,
    "template": {"nodeSelector": {POOL: "yes"}},
}


@pytest.fixture(scope="module")
def pool(world: World) -> Iterator[list[str]]:
    """Two nodes, all that the jobs here may use."""
    names = list(world.lab.node_names[:2])
    scene.kubectl("label", "node", *names, f"{POOL}=yes", "--overwrite")
    yield names
    scene.kubectl("label", "node", *names, f"{POOL}-")


def test_job_shrinks_when_a_node_dies_and_grows_without_losing_a_step_when_it_is_repaired(
    world: World, pool: list[str]
) -> None:
    with world.job("breathing", **CHANGES) as watch:
        # A node that the test before has had repaired may not be free yet when the job starts: then it grows at first.
        _trains_on(watch, 2)
        watch.wait(lambda s: s.checkpoint >= 5 and s.midway(), seconds=240, what="a checkpoint of both nodes")
        assert {p["node"] for p in watch.seen.pods.values() if not p["deleting"]} == set(pool)
        _, node = watch.seen.member(first=False)
        world.lab.fault("node-kill", node=node)
        _trains_on(watch, 1)

        world.lab.heal(node)
        before = set(replayed(watch.seen.steps))
        _trains_on(watch, 2)
        assert set(replayed(watch.seen.steps)) == before, "a growth does no step twice"
        assert len(watch.seen.faults) == 1
        steps = {s.step for s in watch.seen.steps}
        assert steps == set(range(1, max(steps) + 1))
        told = replayed(watch.seen.steps).values()
        assert all(max(losses) - min(losses) < ROUNDING for texts in told if (losses := _losses(texts)))


def test_job_that_loses_all_its_nodes_at_once_is_queued_and_starts_by_itself(world: World, pool: list[str]) -> None:
    with world.job("bereft", **CHANGES) as watch:
        watch.wait(lambda s: s.checkpoint >= 5, seconds=240, what="first checkpoint")
        for name in pool:
            world.lab.fault("node-kill", node=name)
        watch.wait(lambda s: s.status.get("phase") == Phase.QUEUED, seconds=240, what="Queued")
        world.lab.heal()
        _trains_on(watch, 2)
        assert watch.seen.status["restarts"].get("counted", 0) == 0


def _trains_on(watch: JobWatch, size: int) -> None:
    """Wait for ten steps of an attempt of this size."""
    watch.wait(
        lambda s: s.status.get("size") == size and s.status.get("phase") == Phase.RUNNING,
        seconds=400,
        what=f"training on {size} nodes",
    )
    noted = watch.seen.last_step
    watch.wait(lambda s: s.last_step >= noted + 10, seconds=240, what=f"steps on {size} nodes")


def _losses(texts: set[str]) -> list[float]:
    return [float.fromhex(text) for text in texts]
