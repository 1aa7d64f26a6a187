"""`internlm2 simulate` as a person types it."""

import json
from pathlib import Path

import pytest

from internlm2_operator.cli.__main__ import main

SMALL = ["simulate", "--nodes", "4", "--spares", "1", "--days", "1", "--against", "0"]


def test_answer_is_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, "-o", "json"]) == 0
    first = capsys.readouterr().out
    assert main([*SMALL, "-o", "json"]) == 0
    assert capsys.readouterr().out == first
    assert json.loads(first)["nodes"] == 4


def test_own_faults_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "faults.csv"
    file.write_text("time,node,kind,cause\n1,0,process,our bug\n2,1,process,our bug\n")
    assert main([*SMALL, "--faults", str(file), "-o", "json"]) == 0
    causes = {row["cause"]: row["faults"] for row in json.loads(capsys.readouterr().out)["seeds"][0]["causes"]}
    assert causes == {"our bug": 2, "start": 0}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--nodes", "0"], "--nodes: 0; use 1 to 5000"),
        (["--min-nodes", "5"], "--min-nodes: 5; use 1 to --nodes 4"),
        (["--seeds", "0"], "--seeds: 0; use 1 or more"),
        (["--load-seconds", "-1"], "--load-seconds: -1; use 0 or more"),
        (["--pods-per-second", "0"], "--pods-per-second: 0; use more than 0"),
        (["--faults", "/nowhere"], "--faults: /nowhere: "),
    ],
)
def test_mistake_is_one_line_and_code_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SMALL, *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith(told)
    assert error.count("\n") == 1
