"""Two jobs that both want the whole cluster: the one with the higher priority trains, the other waits its turn."""

from lab import scene
from lab.report import agree, replayed
from tests.e2e.world import World

ALL = {"min": 3, "max": 3, "gpusPerNode": 2}


def test_higher_priority_takes_the_nodes_after_a_checkpoint_and_gives_them_back(world: World) -> None:
    sizes = {"tensor": 2, "microBatch": 4}
    batch = 6144  # 24 sequences: three data ranks of two micro-steps
    same = {"nodes": ALL, "stages__0__parallel": sizes, "stages__0__globalBatchTokens": batch}
    with world.job("patient", **same, stages__0__steps=4000) as low:
        low.wait(lambda s: s.last_step >= 7, seconds=240, what="steps of the first job")
        with world.job("urgent", **same, stages__0__steps=10, priority=100) as high:
            low.wait(lambda s: s.status.get("phase") == "Queued" and not s.pods, seconds=180, what="its preemption")
            stopped = low.seen.last_step
            scheduled = next(c for c in low.seen.status["conditions"] if c["type"] == "Scheduled")
            assert "urgent" in scheduled["message"], "who took the nodes"
            assert low.seen.checkpoint == stopped, "a preempted job keeps every step it computed"
            high.wait(lambda s: s.status.get("phase") == "Succeeded", seconds=240, what="the end of the urgent job")
        low.wait(lambda s: s.last_step >= stopped + 3, seconds=240, what="steps after the preemption")
        assert low.seen.status["restarts"].get("counted", 0) == 0
        assert world.cordoned() == set()
        assert agree(low.seen.steps), replayed(low.seen.steps)
        assert "Preempted" in {reason for _, reason, _ in low.seen.events}
        assert scene.kubectl("get", "ilj", "patient", "-o", "name")
