"""When a rank that makes no progress gives up, and what it says of where it stands."""

import contextlib
import random
import signal
import subprocess
import sys
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec import config
from internlm2_spec.contract import ExitCode, FailureClass, Progress, TrainPhase
from internlm2_spec.standstill import Cluster, Why, odd_one_out
from internlm2_trainer.loop import hang
from internlm2_trainer.loop.hang import Frame, Hang, Limits, Watch
from tests import servers
from tests.trainer import agents

LIMITS = Limits(floor_seconds=60, multiple=3, patience_seconds=1800, stop_floor_seconds=20, stop_multiple=5)
STEP, LOAD, CHECKPOINT = TrainPhase.STEP, TrainPhase.LOAD, TrainPhase.CHECKPOINT


@pytest.mark.parametrize(
    ("phase", "recent", "stopping", "seconds"),
    [
        (STEP, [], False, 1800),
        (STEP, [1.0], False, 60),
        (STEP, [30.0, 40.0, 35.0], False, 120),
        (STEP, [1.0] * 99 + [400.0], False, 60),
        (STEP, [1.0] * 98 + [400.0], False, 1200),
        (LOAD, [1.0], False, 1800),
        (CHECKPOINT, [1.0], False, 1800),
        (STEP, [1.0], True, 20),
        (STEP, [], True, 20),
        (STEP, [10.0], True, 50),
        (CHECKPOINT, [1.0], True, 1800),
    ],
    ids=[
        "the first step may compile", "short steps have the floor", "long ones a multiple of the longest",
        "one outlier in a hundred does not count", "of fewer it does", "a load waits", "a save waits",
        "after SIGTERM the floor is lower", "in the first step, too", "and a multiple of its own", "but a save waits",
    ],
)  # fmt: skip
def test_the_limit(phase: TrainPhase, recent: list[float], stopping: bool, seconds: float) -> None:
    assert hang.limit(phase, recent, LIMITS, stopping=stopping) == seconds


@given(median=st.floats(0.05, 300), spread=st.floats(0, 0.15), seed=st.integers(0, 2**16))
def test_heavy_tailed_steps_raise_no_alarm_and_a_step_that_never_ends_does(
    median: float, spread: float, seed: int
) -> None:
    """Log-normal times; one step in 50 is half as long again, or stalls for half a minute where that is more."""
    chance = random.Random(seed)
    watch = Watch(lambda: STEP, lambda _: None, LIMITS)
    for _ in range(600):
        seconds = median * chance.lognormvariate(0, spread)
        if chance.random() < 0.02:
            seconds = max(1.5 * seconds, min(30.0, seconds + 30.0))
        assert not watch.late(seconds)
        watch.step_finished(seconds)

    assert not watch.late(LIMITS.floor_seconds)
    assert watch.late(10 * max(median, LIMITS.floor_seconds))


def test_the_first_step_is_forgotten_once_there_is_another() -> None:
    """It may have compiled; the second may yet, and is measured by it."""
    watch = Watch(lambda: STEP, lambda _: None, LIMITS)
    seen = [watch.limit(STEP)]
    for seconds in (400.0, 30.0, 31.0):
        watch.step_finished(seconds)
        seen.append(watch.limit(STEP))
    assert seen == [1800, 1200, 90, 93]


def test_a_phase_that_begins_starts_the_clock_again() -> None:
    phase = STEP
    watch = Watch(lambda: phase, lambda _: None, LIMITS)
    watch.step_finished(1.0)
    assert not watch.late(59.0)
    phase = CHECKPOINT
    assert not watch.late(59.0)
    phase = STEP
    assert not watch.late(59.0)
    assert watch.late(2.0)


C10D = Frame("torch.distributed.distributed_c10d", "all_reduce", 1)
WRAPPER = Frame("torch.distributed.c10d_logger", "wrapper", 1)
RUN = Frame("internlm2_trainer.loop.train", "step", 2)


@pytest.mark.parametrize(
    ("stack", "waiting", "place", "call"),
    [
        ([C10D, WRAPPER, RUN], True, "internlm2_trainer.loop.train.step, line 2", "all_reduce"),
        (
            [Frame("torch._ops", "__call__", 1), C10D, RUN],
            True,
            "internlm2_trainer.loop.train.step, line 2",
            "all_reduce",
        ),
        (
            [Frame("internlm2_trainer.checkpoint.exchange", "collect", 3), RUN],
            True,
            "internlm2_trainer.checkpoint.exchange.collect, line 3",
            "collect",
        ),
        (
            [Frame("internlm2_trainer.compute.optim", "reduce", 3), RUN],
            True,
            "internlm2_trainer.compute.optim.reduce, line 3",
            "reduce",
        ),
        (
            [Frame("internlm2_trainer.data.source", "samples", 3), RUN],
            False,
            "internlm2_trainer.data.source.samples, line 3",
            "",
        ),
        (
            [Frame("internlm2_trainer.compute.model", "forward", 3), C10D],
            False,
            "internlm2_trainer.compute.model.forward, line 3",
            "",
        ),
        ([], False, "an unknown place", ""),
    ],
    ids=["a collective", "one inside torch", "the store", "a GPU's sum", "data", "computing inside a hook", "nothing"],
)
def test_where_a_rank_stands(stack: list[Frame], waiting: bool, place: str, call: str) -> None:
    hung = Hang(60.0, tuple(stack))
    assert (hung.waiting, hung.place) == (waiting, place)
    assert hung.stood(3, STEP, waits=waiting) == Cluster((3,), STEP, waiting, place, call)


IDLE = """
import time
from internlm2_spec.contract import TrainPhase
from internlm2_trainer.loop.hang import Limits, Watch
def waits_for_nothing():
    time.sleep({sleep})
watch = Watch(lambda: TrainPhase.STEP, lambda hang: print(hang.place, flush=True), Limits(floor_seconds=0.4))
watch.step_finished(0.01)
watch.begin()
print("began", flush=True)
waits_for_nothing()
watch.step_finished(0.01)
"""


@pytest.mark.parametrize(("sleep", "code"), [(600, ExitCode.HANG), (0, ExitCode.DONE)], ids=["stuck", "the control"])
def test_a_process_that_gets_on_no_more_shows_its_stacks_and_ends(sleep: int, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IDLE.format(sleep=sleep)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == code
    assert ("thread MainThread (most recent call first):\n  __main__.waits_for_nothing" in done.stderr) == bool(code)
    assert ("__main__.waits_for_nothing, line 6" in done.stdout) == bool(code)


def test_a_process_that_was_stopped_for_longer_than_the_limit_goes_on() -> None:
    """The time in which it did not run is not counted: 30 steps later it has ended by itself."""
    script = IDLE.format(sleep=0.2).replace("waits_for_nothing()\nwatch", "input()\nwatch")
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("floor_seconds=0.4", "floor_seconds=2.0, stop_floor_seconds=0.4")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "began\n"
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(4.0)
    process.send_signal(signal.SIGCONT)
    process.communicate("\n", timeout=60)
    assert process.returncode == ExitCode.DONE


@dataclass(frozen=True, slots=True)
class End:
    code: int
    failure: FailureClass
    reason: str
    message: str
    written: list[str]  # on standard error


HANG = (ExitCode.HANG, FailureClass.INFRASTRUCTURE, "Hang")
ENDS = {
    "blocks": End(*HANG, "rank 1 made no progress for ", ["failing.fail, line", "distributed_c10d.all_reduce, line"]),
    "stops": End(*HANG, "rank 1 left no word ", ["distributed_c10d.all_reduce, line"]),
    "raises": End(ExitCode.BUG, FailureClass.USER, "ZeroDivisionError", "planted on rank 1", ["in micro_batch"]),
    "crashes": End(1, FailureClass.INFRASTRUCTURE, "RankKilled", "rank 1 ended by signal SIGSEGV", ["in micro_batch"]),
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, corpus_url: str) -> dict[str, agents.Agent]:
    """Agents of two ranks, which run side by side until they end: most of their time they wait."""
    started = {fault: start_failing(fault, tmp_path_factory.mktemp(fault), corpus_url) for fault in (*ENDS, "slow")}
    for agent in started.values():
        agent.wait()
    return started


@pytest.mark.parametrize("fault", ENDS)
def test_the_rank_that_failed_is_named_and_not_those_that_waited_for_it(
    fault: str, ended: dict[str, agents.Agent]
) -> None:
    end, agent = ENDS[fault], ended[fault]

    said = agent.termination()
    errors = agent.errors.read_text()
    assert (agent.wait(), said.exit_code, said.failure, said.reason) == (
        end.code, end.code, end.failure, end.reason,
    )  # fmt: skip
    assert said.message.startswith(end.message)
    assert (said.rank, said.first_failing_rank) == (1, 1)
    assert [text for text in end.written if text not in errors] == []
    assert agent.steps()[-1]["step"] == 3


@pytest.mark.parametrize("fault", ["blocks", "stops"])
def test_the_pods_word_says_where_each_rank_stood(fault: str, ended: dict[str, agents.Agent]) -> None:
    stood = ended[fault].termination().stood
    odd = odd_one_out(stood, range(2))
    assert odd is not None
    assert (odd.why, odd.ranks) == (Why.BUSY if fault == "blocks" else Why.SILENT, (1,))
    assert (odd.call, odd.others) == ("all_reduce", 1)
    (waiting,) = [cluster for cluster in stood if cluster.waits]
    assert (waiting.ranks, waiting.phase) == ((0,), STEP)
    assert waiting.place.startswith("internlm2_trainer.loop.train.")


def test_a_rank_that_crashes_leaves_its_stacks_and_one_that_is_stopped_has_none(
    ended: dict[str, agents.Agent],
) -> None:
    said = ended["crashes"].termination().traceback
    assert said.startswith("Fatal Python error: Segmentation fault")
    assert "in micro_batch" in said
    assert ended["stops"].termination().traceback == ""


def test_a_step_that_is_only_slow_ends_nothing(ended: dict[str, agents.Agent]) -> None:
    assert ended["slow"].wait() == ExitCode.DONE
    assert ended["slow"].termination().first_failing_rank is None


def test_processes_that_are_started_again_in_place_tell_how_those_before_ended(tmp_path: Path, corpus_url: str) -> None:
    """There is no termination message of them: the operator asks for their progress."""
    port = servers.free_port()
    agent = start_failing("blocks", tmp_path, corpus_url, restarts=1, metrics_port=port)
    said: list[Progress] = []

    def told() -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/progress") as answer:
            said.append(Progress.from_json(answer.read().decode()))
        return bool(said and said[-1].ended)

    try:
        agents.until(told, "the processes are started again", [agent])
    finally:
        agent.signal_all(signal.SIGKILL)
        agent.process.join()
    assert (said[0].incarnation, said[0].ended) == (0, None)
    ended = said[-1].ended
    assert ended is not None
    assert (said[-1].incarnation, ended.reason, ended.rank, ended.traceback) == (1, "Hang", 1, "")
    odd = odd_one_out(ended.stood, range(2))
    assert odd is not None
    assert odd.ranks == (1,)
    assert max(each.limit_seconds or 0.0 for each in said) == 1800
    assert min(each.limit_seconds or 0.0 for each in said) == 4.0


def start_failing(
    fault: str, folder: Path, corpus_url: str, *, restarts: int = 0, metrics_port: int = 0
) -> agents.Agent:
    """Start 6 steps on two ranks of one agent; rank 1 fails in the step after 3. Its stage is impatient."""
    stage = replace(agents.stage(folder, corpus_url, steps=6), hang=config.Hang(floor_seconds=4.0))
    (folder / "job.json").write_text(config.to_json(stage))
    job = ["--", "train", "--config", str(folder / "job.json")]
    alone = ["--nproc-per-node", "2", "--is-host", "--rdzv-endpoint", agents.endpoint()]
    arguments = [*alone, "--max-restarts", str(restarts), *job]
    program = ["tests.trainer.failing", fault, "1", "3"]
    return agents.Agent(folder, "failing", arguments, program, metrics_port=metrics_port)
