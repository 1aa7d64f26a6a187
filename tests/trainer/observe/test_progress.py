"""What a terminal shows of a run."""

import json
import os
import pty
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from internlm2_spec import config
from internlm2_spec.contract import ExitCode, TrainPhase
from internlm2_trainer.observe import progress
from internlm2_trainer.observe.progress import View
from tests import programs
from tests.trainer import agents

NEW = View("pretrain", 40, phase_time=100.0)
STEP = {
    "step": 10, "loss": 2.5, "lossHex": "0x1.4p+1", "gradNorm": 0.75, "tokensPerSecond": 8123.4, "mfuCausal": None,
    "mfuFull": None, "time": 110.0, "attempt": 1,
}  # fmt: skip
STEPPING = replace(NEW, phase=TrainPhase.STEP)
RUNNING = progress.seen(progress.seen(STEPPING, STEP), STEP | {"step": 11, "time": 112.0})
SHARE = "pretrain  [####............]  10/40  25%"


@pytest.mark.parametrize(
    ("view", "now", "line"),
    [
        (NEW, 104.0, "pretrain  [................]  0/40  0%"),
        (NEW, 165.0, "pretrain  [................]  0/40  0%  starting: ranks meet, the model is built ... 1m05s"),
        (replace(NEW, phase=TrainPhase.LOAD, step=10), 106.0, f"{SHARE}  loading a checkpoint ... 6s"),
        (replace(STEPPING, step=10), 130.0, f"{SHARE}  first step ... 30s"),
        (progress.seen(STEPPING, STEP), 110.0, f"{SHARE}  loss 2.5000  grad 0.75  8,123 tokens/s"),
        (
            progress.seen(STEPPING, STEP | {"mfuCausal": 0.4567}), 110.0,
            f"{SHARE}  loss 2.5000  grad 0.75  8,123 tokens/s  MFU 45.7%",
        ),
        (
            progress.seen(replace(RUNNING, step=10), {"event": "checkpoint", "step": 10, "time": 111.0}), 118.0,
            f"{SHARE}  loss 2.5000  grad 0.75  8,123 tokens/s  ETA 1m00s  saved 7s ago",
        ),
        (
            progress.entered(replace(RUNNING, step=10), TrainPhase.CHECKPOINT, 112.0), 118.0,
            f"{SHARE}  saving a checkpoint ... 6s",
        ),
        (
            progress.entered(replace(RUNNING, step=10), TrainPhase.CHECKPOINT, 112.0), 114.0,
            f"{SHARE}  loss 2.5000  grad 0.75  8,123 tokens/s  ETA 1m00s",
        ),
    ],
    ids=[
        "a start says nothing at first", "a long start says so", "a load", "a first step", "a step", "with a peak",
        "two steps and a checkpoint", "a long save", "a short save",
    ],
)  # fmt: skip
def test_the_line(view: View, now: float, line: str) -> None:
    assert progress.line(view, now, 200) == line
    assert progress.line(view, now, 20) == line[:20]


def test_the_time_of_a_step_is_smoothed_and_a_rollback_does_not_count() -> None:
    slow = progress.seen(RUNNING, STEP | {"step": 12, "time": 124.0})
    back = progress.seen(slow, {"event": "loss-spike", "step": 12, "resumed": 5, "loss": 9.0})

    assert (RUNNING.step_seconds, slow.step_seconds) == (2.0, 3.0)
    assert (back.step, progress.seen(back, STEP | {"step": 6, "time": 190.0}).step_seconds) == (5, 3.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m00s"), (125, "2m05s"), (11040, "3h04m"), (453600, "5d06h"), (-1, "0s")],
)
def test_a_duration(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_an_event_is_a_line_and_a_step_is_none() -> None:
    said = {"event": "loss-spike", "step": 3, "loss": 9.123456, "limit": None, "attempt": 1}

    assert progress.event(said) == "loss-spike  step 3  loss 9.123"
    assert re.fullmatch(r"\d\d:\d\d:\d\d done  step 3", progress.event({"event": "done", "step": 3, "time": 0.0}) or "")
    assert progress.event(STEP) is None


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, corpus_url: str) -> Path:
    folder = tmp_path_factory.mktemp("job")
    (folder / "job.json").write_text(config.to_json(agents.stage(folder, corpus_url, steps=6)))
    return folder


def test_a_terminal_gets_a_line_that_changes_and_a_file_gets_json(job: Path) -> None:
    code, shown = on_a_terminal(job, "xterm")
    again = train(job, "xterm", job / "again.out")  # resumed from the end: nothing is left to do
    lines = [json.loads(line) for line in (job / "again.out").read_text().splitlines()]

    assert (code, again) == (ExitCode.DONE, ExitCode.DONE)
    drawn = [text.removeprefix("\x1b[2K") for text in shown.split("\r") if text.startswith("\x1b[2Ktest  [")]
    assert any(text.startswith("test  [###.............]  1/6  17%  loss ") for text in drawn)
    assert re.fullmatch(r"test  \[#{16}\]  6/6  100%  loss .*  grad .*  [\d,]+ tokens/s.*", drawn[-1])
    assert re.search(r"\r\x1b\[2K\d\d:\d\d:\d\d resumed  step 0", shown)
    assert re.search(r"\r\x1b\[2Kdone  step 6\r\n", shown)
    assert "{" not in shown
    assert re.findall(r"\x1b\[[\d;]*m", shown) == [], "no colours"
    assert [line.get("event") for line in lines] == ["group-joined", "model-built", "resumed", "done"]


def test_a_terminal_that_cannot_move_its_cursor_gets_json(job: Path) -> None:
    code, shown = on_a_terminal(job, "dumb")

    assert code == ExitCode.DONE
    assert '"event": "done"' in shown


def train(job: Path, kind: str, output: Path) -> int:
    """Run the job with its output to a file, or to a terminal of some kind; return the exit code."""
    command = ["internlm2_trainer", "train", "--config", str(job / "job.json")]
    environment = os.environ | {
        "INTERNLM2_METRICS_PORT": "0", "INTERNLM2_CACHE_DIR": str(job / "cache"), "TERM": kind,
    }  # fmt: skip
    process = programs.start(command, environment=environment, output=output, errors=job / "errors")
    return programs.wait(process, agents.DEADLINE_SECONDS)


def on_a_terminal(job: Path, kind: str) -> tuple[int, str]:
    """Run the job on a terminal of its own; return the exit code and what it was sent."""
    ours, theirs = pty.openpty()
    reading = subprocess.Popen(["cat"], stdin=ours, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    code = train(job, kind, Path(os.ttyname(theirs)))
    os.close(theirs)
    shown, _ = reading.communicate(timeout=30)
    os.close(ours)
    return code, shown.decode()
