"""`python -m internlm2_trainer checkpoint ...` as a person runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from internlm2_trainer import __main__, storage
from tests.trainer.states import checkpointer, flip, key_of, saved, state_of

COMMAND = [sys.executable, "-m", "internlm2_trainer", "checkpoint"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Return a run of one stage with steps 1, 2 and 3."""
    url = f"file://{tmp_path}/run"
    saved(storage.open_store(url), 1, 2, 3)
    return url


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a verb in this process, which has torch imported already; return code, output and errors."""
    code = __main__.main(["checkpoint", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code, out, _ = run(capsys, *arguments, "--json")
    return code, json.loads(out)


def test_the_verbs_that_read_no_tensors_never_import_torch(url: str) -> None:
    verbs = [["list", url], ["verify", url, "--all"], ["show", url], ["prune", url, "--keep", "1"]]
    program = f"import sys; from internlm2_trainer.__main__ import main; codes = [main(v) for v in {verbs!r}];"
    program = program.replace("main(v)", "main(['checkpoint', *v])") + "print(codes, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "[0, 0, 0, 0] False"


def test_a_mistake_is_one_line_and_code_2_from_the_real_command_line(tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, "list", f"file://{tmp_path}"], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"file://{tmp_path}: has no checkpoint; give checkpoint.url of a run\n"


MISTAKES = {
    "a URL of another kind": (["list", "http://x"], "not a storage URL"),
    "no such stage": (["list", "{url}", "--stage", "x"], "is no stage with a checkpoint; use pretrain"),
    "no such step": (["verify", "{url}", "--step", "9"], "step 9 has no manifest; use one of 3, 2, 1"),
    "a step in the URL that is not there": (["show", "{url}/pretrain/step-00000009"], "use one of 3, 2, 1"),
    "keeping nothing": (["prune", "{url}", "--keep", "0"], "--keep: 0 is too small; use 1 or more"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_says_what_would_be_right(
    arguments: list[str], told: str, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, *(each.replace("{url}", url) for each in arguments))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err


def test_list_has_a_line_a_step_newest_first(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", url)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["stage", "step", "time", "attempt", "ranks", "tensors", "MiB", "state"]
    assert [(line[0], line[1], line[-1]) for line in lines[1:]] == [("pretrain", s, "complete") for s in "321"]


def test_verify_reads_the_newest_step_or_all_and_names_the_damage(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = storage.open_store(url)
    key = key_of(store, 2, ".safetensors")
    flip(store, key)
    assert run_json(capsys, "verify", url)[0] == 0
    code, told = run_json(capsys, "verify", url, "--all")
    assert code == 1
    assert [step["damage"] for step in told["steps"]] == [None, f"{key.split('/')[-1]} has another SHA-256", None]
    assert run_json(capsys, "verify", f"{url}/pretrain/step-00000002")[0] == 1


def test_show_tells_what_the_manifest_says(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run_json(capsys, "show", f"{url}/pretrain/step-00000002")
    assert code == 0
    assert (told["step"], told["extra"], told["elements"]) == (2, {"step": 2}, 24)
    assert told["tensors"]["model.w"] == ["F32", [4, 3], 1]
    assert "optim.w.exp_avg  F32   [4, 3]  1" in run(capsys, "show", url, "--tensors")[1]


def test_diff_counts_elements_and_names_what_only_one_has(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = storage.open_store(f"file://{tmp_path}/other")
    state = state_of(2)
    state["model.w"][1, 2] += 0.5
    del state["optim.w.exp_avg"]
    checkpointer(other).save(2, state, {"step": 2}, wait=True)
    step = f"{url}/pretrain/step-00000002"
    code, told = run_json(capsys, "diff", step, other.url)
    assert (code, told["extra"]) == (1, {})
    assert [(t["tensor"], t["reason"], t["differing"], t["largest"]) for t in told["tensors"]] == [
        ("model.w", "", 1, 0.5),
        ("optim.w.exp_avg", "only in the first", 0, 0.0),
    ]
    assert run(capsys, "diff", step, step)[:2] == (0, "the same: 2 tensors, bit by bit\n")


def test_prune_says_what_would_go_and_deletes_when_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    store = storage.open_store(url)
    store.put("pretrain/step-00000001/0-0-dead.safetensors", [memoryview(b"left behind")])
    before = store.list("")
    code, told = run_json(capsys, "prune", url, "--keep", "1", "--keep-every", "2")
    assert (code, told["deleted"], told["steps"], told["objects"]) == (0, False, ["pretrain/step-00000001"], 3)
    assert store.list("") == before
    assert run_json(capsys, "prune", url, "--keep", "1", "--keep-every", "2", "--delete")[1]["deleted"]
    assert {entry.key.split("/")[1] for entry in store.list("pretrain/")} == {"step-00000002", "step-00000003"}


def test_help_names_every_verb_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("list", "verify", "show", "diff", "prune"):
        with pytest.raises(SystemExit) as ended:
            __main__.main(["checkpoint", verb, "--help"])
        assert ended.value.code == 0
        assert f"example: python -m internlm2_trainer checkpoint {verb} s3://" in " ".join(
            capsys.readouterr().out.split()
        )
