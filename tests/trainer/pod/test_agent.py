"""Agents as pods run them: ranks die, members die, somebody asks to stop."""

import dataclasses
import json
import os
import signal
from collections import defaultdict
from pathlib import Path

import pytest

from internlm2_spec.config import Parallel
from internlm2_spec.contract import ExitCode, FailureClass, step_prefix
from tests.trainer import agents

MEMBERS = ["127.0.0.1", "127.0.0.2"]
SPARE = "127.0.0.3"


def test_a_killed_rank_is_restarted_in_place_and_repeats_its_steps_bit_by_bit(tmp_path: Path, corpus_url: str) -> None:
    stage = agents.stage(tmp_path, corpus_url, steps=60)
    with agents.started(tmp_path, stage, MEMBERS[:1], nodes=1, ranks=2, fresh=True) as (agent,):
        agents.until(agent.midway, "the middle of an interval", [agent])
        os.kill(agent.events("ranks-started")[0]["pids"][1], signal.SIGKILL)
        code = agent.wait()

    assert code == ExitCode.DONE
    assert agent.termination().failure is FailureClass.DONE
    assert [line["incarnation"] for line in agent.events("ranks-started")] == [0, 1]
    assert agent.events("ranks-failed")[0]["reason"] == "RankKilled"
    assert_resumed_from_memory(agent)
    assert_steps_repeat(agent.steps(), last=60)


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_a_spare_takes_the_place_of_a_member_that_is(fault: signal.Signals, tmp_path: Path, corpus_url: str) -> None:
    stage = agents.stage(tmp_path, corpus_url, steps=60)
    with agents.started(tmp_path, stage, [*MEMBERS, SPARE], nodes=2) as pods:
        host, member, spare = pods
        agents.until(host.midway, "the middle of an interval", pods)
        assert [pod.events("ranks-started")[0]["ranks"] for pod in (host, member)] == [[0], [1]]
        assert spare.events("ranks-started") == [], "it was there first, and let the members meet"
        member.signal_all(fault)
        agents.until(lambda: bool(spare.events("ranks-started")), "the spare joined", pods)
        codes = host.wait(), spare.wait()

    assert codes == (ExitCode.DONE, ExitCode.DONE)
    assert_resumed_from_memory(host)  # the spare had none: its peer is a replica
    assert_steps_repeat(host.steps(), last=60)


def test_sigterm_to_one_member_stops_all_at_one_step_after_a_checkpoint(tmp_path: Path, corpus_url: str) -> None:
    stage = agents.stage(tmp_path, corpus_url, steps=100_000)
    with agents.started(tmp_path, stage, [*MEMBERS, SPARE], nodes=2) as pods:
        host = pods[0]
        agents.until(lambda: len(host.steps()) > 12, "step 13", pods)
        member, spare = pods[1:]
        spare.process.terminate()
        spare_code = spare.wait()
        member.process.terminate()
        codes = host.wait(), member.wait()

    assert (spare_code, *codes) == (ExitCode.STOPPED,) * 3
    assert {pod.termination().failure for pod in pods} == {FailureClass.STOPPED}
    step = host.steps()[-1]["step"]
    assert host.termination().step == member.termination().step == step
    assert json.loads((tmp_path / "checkpoints" / step_prefix("test", step) / "manifest.json").read_text())


def test_a_refused_configuration_ends_at_once_with_one_line(tmp_path: Path, corpus_url: str) -> None:
    stage = dataclasses.replace(agents.stage(tmp_path, corpus_url, steps=5), parallel=Parallel(tensor=3))
    with agents.started(tmp_path, stage, MEMBERS[:1], nodes=1, ranks=3) as (agent,):
        code = agent.wait()

    assert code == ExitCode.CONFIG
    wrong = "parallel.tensor: 3 does not divide kvHeads 4, nor do heads 8 divide by both; use 1, 2, 4, 8"
    assert agent.termination().message == wrong
    assert len(agent.events("ranks-started")) == 1
    assert "Traceback" not in agent.errors.read_text()


def assert_resumed_from_memory(agent: agents.Agent) -> None:
    first, *others = agent.events("resumed")
    assert (first["step"], first["tier"]) == (0, None)
    assert others
    assert {(each["tier"], each["step"] % 10) for each in others} == {("memory", 0)}
    assert all(each["step"] > 0 for each in others)


def assert_steps_repeat(lines: list[agents.Line], *, last: int) -> None:
    """Every step was done; those that were done twice have the same loss to the last bit."""
    losses: dict[int, list[str]] = defaultdict(list)
    for line in lines:
        losses[line["step"]].append(line["lossHex"])
    assert sorted(losses) == list(range(1, last + 1))
    assert any(len(each) == 2 for each in losses.values()), "the fault cost no step: it tested nothing"
    assert all(len(set(each)) == 1 for each in losses.values())
