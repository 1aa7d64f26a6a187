"""A process' wall clock jumps and comes back; its monotonic clock and everybody else's stay."""

import platform
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from lab.faults import clock

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is x86-64's")
TELLS = "import sys, time\nfor line in sys.stdin: print(time.time(), time.monotonic(), flush=True)"


@pytest.fixture
def teller() -> Iterator["subprocess.Popen[str]"]:
    """A process that says what its clocks say, when asked."""
    with subprocess.Popen(
        [sys.executable, "-c", TELLS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert ask(process)
        yield process
        process.kill()


def ask(process: "subprocess.Popen[str]") -> tuple[float, float]:
    """Return what a process' clocks are ahead of ours, wall and monotonic, in whole seconds."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    wall, monotonic = map(float, process.stdout.readline().split())
    return round(wall - time.time()), round(monotonic - time.monotonic())


@pytest.mark.parametrize("by", [-3600, 120])
def test_wall_clock_jumps_and_comes_back(teller: "subprocess.Popen[str]", by: int) -> None:
    assert ask(teller) == (0, 0)
    was = clock.jump(teller.pid, by)
    assert was is not None
    assert ask(teller) == (by, 0)
    assert round(time.time()) == round(time.clock_gettime(time.CLOCK_REALTIME)), "ours is as it was"
    clock.write(teller.pid, {int(at): bytes.fromhex(code) for at, code in was["code"].items()})
    assert ask(teller) == (0, 0)


def test_a_process_that_is_gone_is_no_error() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        ended.wait()
        assert clock.jump(ended.pid, 5) is None
