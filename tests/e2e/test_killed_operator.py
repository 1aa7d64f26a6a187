"""The operator dies at random moments of a job with faults: nothing is made twice, no fault is forgotten.

It runs as a process beside the lab instead of in its pod, with the rights of its account and the identity of one pod:
the kubelet's back-off between restarts of a container would make an hour of this.
"""

import os
import random
import time
from pathlib import Path

from lab.report import agree, replayed
from lab.watch import JobWatch
from tests.api.stage import OperatorProcess
from tests.e2e.world import World

SEED = int(os.environ.get("INTERNLM2_SEED", "20260131"))
KILLS = 50


def test_operator_killed_at_fifty_random_moments_is_as_if_it_had_lived(world: World, tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with world.operator_process(tmp_path) as operator, world.job("unshaken", stages__0__steps=100_000) as watch:
        injected: dict[str, str] = {}  # cause to the node that the record must name: a restart in place names none
        for number in range(KILLS):
            _moment(operator, chance)
            _held_once(watch)
            if number >= 5 and "ProcessRestart" not in injected and watch.seen.midway():
                pod, _ = watch.seen.member(first=False)
                world.lab.fault("process-kill", pod=f"default/{pod}")
                injected["ProcessRestart"] = ""
            elif number >= 30 and "NodeNotReady" not in injected and watch.seen.closed and watch.seen.midway():
                _, node = watch.seen.member(first=False)
                world.lab.fault("node-kill", node=node)
                injected["NodeNotReady"] = node
        assert set(injected) == {"ProcessRestart", "NodeNotReady"}, f"seed {SEED}: the job did not get that far"
        noted = watch.seen.last_step
        watch.wait(
            lambda s: s.last_step >= noted + 10 and len(s.closed) == len(injected) and bool(s.cordoned),
            seconds=240, what=f"steps after all that (seed {SEED})",
        )  # fmt: skip

        assert {f["cause"]: f.get("node", "") for f in watch.seen.faults} == injected, f"seed {SEED}"
        assert world.cordoned() == {injected["NodeNotReady"]}
        assert agree(watch.seen.steps), replayed(watch.seen.steps)


def _moment(operator: OperatorProcess, chance: random.Random) -> None:
    """Let the operator live for some seconds, kill it, and start it again."""
    time.sleep(chance.uniform(0.0, 5.0))
    operator.kill()
    operator.start()


def _held_once(watch: JobWatch) -> None:
    held = [(p["attempt"], p["slot"]) for p in watch.seen.pods.values() if not p["deleting"]]
    assert len(held) == len(set(held)), f"seed {SEED}: a slot is held twice: {watch.seen.pods}"
