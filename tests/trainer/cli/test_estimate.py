"""`estimate` as a person runs it."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from internlm2_spec import config, memory
from internlm2_spec.config import Parallel, Stage, Zero
from internlm2_spec.contract import ExitCode
from internlm2_spec.presets import PRESETS
from internlm2_trainer.cli import estimate
from tests.trainer import parity

STAGE = dataclasses.replace(
    parity.stage(),
    model=PRESETS["internlm2-7b"],
    sequence_length=4096,
    global_batch_tokens=4 * 2**20,
    parallel=Parallel(zero=Zero(2, 8), recompute="Full"),
)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return written(tmp_path, STAGE)


def written(folder: Path, stage: Stage) -> str:
    (folder / "job.json").write_text(config.to_json(stage))
    return str(folder / "job.json")


def test_the_table_names_every_part_and_both_conventions(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate.main(["--config", path, "--nodes", "1", "--gpu", "H100-80GB"]) == ExitCode.DONE

    text = capsys.readouterr().out
    held = memory.of_stage(STAGE, 8, memory.CUDA)
    assert "7.738B parameters on 8 ranks, 128 micro-steps of 1 x 4096 tokens a data rank" in text
    assert "47.37 with causal attention, 50.59 with full attention" in text
    assert all(name in text for name in held.parts())
    assert f"{held.total / 2**30:.2f}" in text
    assert "H100-80GB has room for 74.1 GiB: fits" in text
    assert "% causal, " in text
    assert "% full, predicted" in text


def test_json_has_the_same_figures(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    estimate.main(["--config", path, "--ranks", "16", "--json", "--cpu"])

    report = json.loads(capsys.readouterr().out)
    held = memory.of_stage(STAGE, 16, memory.CPU)
    assert report["memoryBytes"] == held.parts() | {"total": held.total}
    assert report["flopsPerTokenCausal"] < report["flopsPerTokenFull"]
    assert "mfuCausal" not in report  # no GPU was named


def test_a_search_lists_layouts_with_reasons(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", path, "--ranks", "4", "--gpu", "H100-80GB", "--search", "--top", "3"]
    assert estimate.main(arguments) == ExitCode.DONE
    assert estimate.main([*arguments, "--json"]) == ExitCode.DONE

    text, report = capsys.readouterr().out.split("{", 1)
    assert "predicted, not measured" in text
    assert len(text.splitlines()) == 2 + 1 + 3
    layouts = json.loads("{" + report)["layouts"]
    assert len(layouts) == 3
    assert all(one["why"] and 0 < one["mfuCausal"] < one["mfuFull"] < 1 for one in layouts)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "3"], "parallel: 3 ranks are not divisible by tensor 1 x pipeline 1 x context 1 x zero.shard 8"),
        (["--ranks", "8", "--gpu", "K80"], "--gpu: K80 is not known; use one of A100-40GB"),
        (["--search"], "--gpu: missing; use one of A100-40GB"),
        (["--ranks", "12", "--gpu", "H200", "--search"], "--ranks: 12 do not fill nodes of 8; use --nodes"),
        (
            ["--ranks", "1", "--gpu", "A100-40GB", "--search"],
            "--nodes: no layout fits 1 x A100-40GB; the smallest does",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    arguments: list[str], message: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert estimate.main(["--config", path, *arguments]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith(message)


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate.main(["--config", "/nowhere/job.json"]) == ExitCode.CONFIG
    assert capsys.readouterr().err.startswith("--config: /nowhere/job.json cannot be read")


def test_no_torch_is_imported(path: str) -> None:
    code = (
        "import sys; from internlm2_trainer import __main__ as m;"
        f" m.main(['estimate', '--config', {path!r}, '--ranks', '8', '--gpu', 'H200']);"
        " sys.exit(any(name.split('.')[0] in ('torch', 'numpy') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60).returncode == 0
