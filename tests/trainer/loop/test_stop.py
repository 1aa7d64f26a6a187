"""SIGTERM of a rank, in a process of its own."""

import subprocess
import sys

import pytest

from internlm2_spec.contract import ExitCode

STUCK = """
import time
from internlm2_trainer.loop.stop import StopRequest
stop = StopRequest(lambda seconds: print(f"hang after {seconds}", flush=True), min_hang_seconds=0.2)
stop.listen()
print("ready", flush=True)
time.sleep(600)
"""

WORKING = """
import time
from internlm2_trainer.loop.stop import StopRequest
stop = StopRequest(lambda seconds: None, min_hang_seconds=60.0)
stop.listen()
print("ready", flush=True)
while not stop.requested:
    stop.step_finished(0.001)
stop.step_finished(0.001)
print("stopped by itself")
"""


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [(STUCK, ExitCode.HANG, "hang after 0.2"), (WORKING, ExitCode.DONE, "stopped by itself")],
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
