"""What `plan` prints of a manifest."""

import json
import subprocess
import sys
from typing import Any

import pytest
import yaml

from internlm2_operator.cli import forecast, plan
from internlm2_operator.cli.__main__ import main
from internlm2_operator.cli.answer import printed
from tests.api.jobs import job


def seen(changes: dict[str, Any] | None = None, gpu: str | None = None) -> plan.Forecast:
    assumed = forecast.assumptions(gpu, None, None)
    return plan.foresee(plan.checked(job(changes), "f.yaml"), assumed, plan.Reliability())


def test_a_row_for_every_legal_size() -> None:
    lines = list(plan.answer(seen()).lines)
    head = next(number for number, line in enumerate(lines) if line.startswith("NODES"))
    rows = [line.split() for line in lines[head + 1 : head + 3]]
    assert [row[:4] for row in rows] == [["2", "16", "8", "128"], ["4", "32", "16", "64"]]
    assert rows[0][-3:] == ["-", "-", "-"]
    assert "no step times: name the GPUs with --gpu, as in --gpu h100" in lines


def test_a_size_that_does_not_fit_says_so() -> None:
    changes = {"stages.0.parallel": {"tensor": 1, "zero": {"shard": 8}}}
    assert "does not fit" in "\n".join(plan.answer(seen(changes, "A100-40GB")).lines)
    assert "does not fit" not in "\n".join(plan.answer(seen(gpu="H200")).lines)


def test_many_sizes_are_cut_in_the_middle_and_complete_in_json() -> None:
    many = seen({"nodes": {"min": 1, "max": 60, "gpusPerNode": 1}, "stages.0.parallel": {},
                   "stages.0.globalBatchTokens": 4096 * 720720 // 6})  # fmt: skip
    assert len(many.nodes) > plan.ROWS
    assert any(line.endswith("more, -o json") for line in plan.answer(many).lines)
    assert [one["nodes"] for one in json.loads(printed(plan.answer(many), "json"))["stages"][0]["sizes"]] == many.nodes


def test_memory_is_told_for_every_place_in_the_pipeline() -> None:
    pipeline = seen({"stages.0.parallel": {"pipeline": 4}})
    wide = plan.answer(pipeline).wide
    assert wide is not None
    table = wide[wide.index("GiB of a rank at 4 nodes, by its place in the pipeline:") + 2 :][:4]
    assert [line.split()[0] for line in table] == ["0", "1", "2", "3"]


def test_yaml_is_what_the_operator_would_make() -> None:
    objects = list(yaml.safe_load_all(printed(plan.answer(seen({"nodes.spares": 1})), "yaml")))
    assert [one["kind"] for one in objects] == ["Service", "ConfigMap", *["Pod"] * 5]
    command = objects[2]["spec"]["containers"][0]["command"]
    assert command[command.index("--nnodes") + 1] == "4:4"
    assert "--spare" in objects[-1]["spec"]["containers"][0]["command"]


def test_the_interval_comes_from_the_failures_and_the_pause() -> None:
    given = plan.Reliability(node_hours=1000, pause=10)
    forecasted = plan.foresee(plan.checked(job(), "f.yaml"), forecast.assumptions("h100", None, None), given)
    lines = plan.answer(forecasted).lines
    assert any("a node fails every 1,000 h as given; 4 nodes every 10d" in line for line in lines)
    (advice,) = [line for line in lines if "a save that stops training" in line]
    assert "everySteps 50, as it is" in advice


def test_a_manifest_that_would_be_refused_is_2_with_every_reason(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump(job({"nodes.min": 0, "checkpoint.keep": 1})))
    assert main(["plan", "-f", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"{path}: spec.checkpoint.keep: Invalid value: 1: should be greater than or equal to 2",
        f"{path}: spec.nodes.min: Invalid value: 0: should be greater than or equal to 1",
    ]


def test_without_the_interpreter_of_cel_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['cel'] = None\n"
        "from internlm2_operator.cli.__main__ import main\n"
        "sys.exit(main(['plan', '-f', 'job.yaml']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "plan: cel is not installed; uv pip install '.[cli]' in a checkout\n"
