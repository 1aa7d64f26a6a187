"""SIGTERM of a rank, in a process of its own."""

import subprocess
import sys

import pytest

from internlm2_spec.contract import ExitCode

START = """
import time
from internlm2_spec.contract import TrainPhase
from internlm2_trainer.loop.hang import Limits, Watch
from internlm2_trainer.loop.stop import StopRequest
limits = Limits(stop_floor_seconds={limit})
watch = Watch(lambda: TrainPhase.STEP, lambda hang: print(f"hang in {{hang.place}}", flush=True), limits)
watch.begin()
stop = StopRequest(watch)
stop.listen()
print("ready", flush=True)
"""
STUCK = START.format(limit=0.2) + "time.sleep(600)"
WORKING = (
    START.format(limit=60.0)
    + """
while not stop.requested:
    stop.step_finished(0.001)
stop.step_finished(0.001)
print("stopped by itself")
"""
)


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [(STUCK, ExitCode.HANG, "hang in __main__"), (WORKING, ExitCode.DONE, "stopped by itself")],
    ids=["a rank that finishes no step shows its stacks and ends", "a rank that works ends by itself"],
)
def test_after_sigterm(script: str, code: int, said: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    output, errors = process.communicate(timeout=60)

    assert process.returncode == code
    assert said in output
    assert ("most recent call first" in errors) == (code == ExitCode.HANG)
