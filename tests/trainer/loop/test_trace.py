"""A traced run leaves a trace of its steps for each rank, and trains what it trains untraced."""

import gzip
import json
from pathlib import Path

import pytest

from internlm2_spec import config
from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode
from internlm2_trainer.loop import options, trace
from internlm2_trainer.loop.options import Span
from tests.trainer import agents

PARTS = {"data", "forward and backward", "reduce", "optimizer"}


def test_each_rank_leaves_a_trace_of_exactly_these_steps_and_nothing_else_changes(
    tmp_path: Path, corpus_url: str
) -> None:
    traced = started(tmp_path / "traced", corpus_url, "--profile", "3:4", "--profile-dir", str(tmp_path / "traces"))
    plain = started(tmp_path / "plain", corpus_url)

    assert (traced.wait(), plain.wait()) == (ExitCode.DONE, ExitCode.DONE)
    names = [f"trace-test-step3-4-rank{rank}.json.gz" for rank in (0, 1)]
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == names
    for name in names:
        events = json.loads(gzip.decompress((tmp_path / "traces" / name).read_bytes()))["traceEvents"]
        said = [event["name"] for event in events if event.get("cat") == "user_annotation"]
        assert sorted(each for each in said if each.startswith("step ")) == ["step 3", "step 4"]
        assert {part: said.count(part) for part in PARTS} == dict.fromkeys(PARTS, 2)
        assert any(event["name"] == "aten::mm" for event in events)
    assert [line["lossHex"] for line in traced.steps()] == [line["lossHex"] for line in plain.steps()]
    assert len(plain.steps()) == 6


def test_steps_that_the_stage_does_not_have_are_refused_before_any_is_done(tmp_path: Path, corpus_url: str) -> None:
    agent = started(tmp_path, corpus_url, "--profile", "5:7")

    assert agent.wait() == ExitCode.CONFIG
    assert agent.termination().message == (
        "--profile: steps 5 to 7 are not all done by this run; use steps from 1 to 6"
    )
    assert agent.steps() == []


@pytest.mark.parametrize(
    ("after", "steps", "refused"),
    [(0, 7, False), (4, 7, False), (5, 7, True), (0, 6, True)],
    ids=["all", "the next", "one is done already", "one is after the last"],
)
def test_a_run_must_do_all_of_the_steps(after: int, steps: int, refused: bool) -> None:
    span = Span.parse("5:7", "traces")
    if not refused:
        span.check(after=after, steps=steps)
        return
    with pytest.raises(Refused, match=f"use steps from {after + 1} to {steps}"):
        span.check(after=after, steps=steps)


@pytest.mark.parametrize(
    ("profile", "folder", "said"),
    [
        ("5", "traces", "'5' is not FIRST:LAST; write 5:7"),
        ("5:", "traces", "'5:' is not FIRST:LAST"),
        ("-1:3", "traces", "is not FIRST:LAST"),
        ("7:5", "traces", "'7:5' is not a range of steps, which count from 1"),
        ("0:5", "traces", "'0:5' is not a range of steps, which count from 1"),
        ("5:7", "s3://bucket/traces", "'s3://bucket/traces' is a URL, and traces go into a folder"),
    ],
)
@pytest.mark.parametrize("through_the_agent", [False, True], ids=["by hand", "through the agent"])
def test_a_mistake_ends_with_code_2_and_one_line(
    profile: str, folder: str, said: str, through_the_agent: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    from internlm2_trainer.pod import agent

    verb = ["--config", "job.json", f"--profile={profile}", "--profile-dir", folder]
    with pytest.raises(SystemExit) as ended:
        agent.parse(["--", "train", *verb]) if through_the_agent else options.parse(verb)

    assert ended.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"--profile-dir: .*name a folder that can be written"):
        trace.prepare(Span.parse("1:2", str(tmp_path / "file" / "traces")))


def started(folder: Path, corpus_url: str, *options: str) -> agents.Agent:
    """Start 6 steps on two ranks of one agent."""
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text(config.to_json(agents.stage(folder, corpus_url, steps=6)))
    job = ["--", "train", "--config", str(folder / "job.json"), *options]
    return agents.Agent(
        folder, "agent", ["--nproc-per-node", "2", "--is-host", "--rdzv-endpoint", agents.endpoint(), *job]
    )
