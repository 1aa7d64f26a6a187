"""The command line teaches, and refuses with 2."""

import pytest

from internlm2_operator.cli import arguments

VERBS = ("status", "why", "faults", "checkpoints", "cordons", "nodes", "logs", "resize", "suspend", "resume", "plan")


def test_help_lists_every_verb_with_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(["--help"], "internlm2")
    told = capsys.readouterr().out
    assert ended.value.code == 0
    assert [verb for verb in VERBS if f"    {verb}" not in told] == []
    assert "internlm2 why demo" in told


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_ends_with_an_example_of_the_same_program(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments.parse([verb, "--help"], "kubectl internlm2")
    assert f"example: kubectl internlm2 {verb}" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "line",
    ["", "dream", "why", "status -o csv", "logs demo --slot -1", "logs demo --slot 1 --rank 2", "plan",
     "plan -f a --pause-seconds 0", "resize demo --max x", "ui --prometheus-url prometheus:9090"],
)  # fmt: skip
def test_a_line_that_makes_no_sense_is_2(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        arguments.parse(line.split(), "internlm2")
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err
