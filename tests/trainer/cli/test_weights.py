"""`checkpoint export` and `checkpoint import` as a person runs them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from internlm2_spec.architecture import Architecture
from internlm2_spec.config import Model
from internlm2_trainer import __main__, storage
from internlm2_trainer.cli import tokenizer, weights
from tests.trainer.released_models import SMALL, files, saved_model

COMMAND = [sys.executable, "-m", "internlm2_trainer", "checkpoint"]
RELEASED = Path(__file__).parents[4] / "shared" / "tokenizers" / "internlm2"


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"file://{tmp_path}/run"
    saved_model(url)
    return url


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a verb in this process, which has torch imported already; return code, output and errors."""
    code = __main__.main(["checkpoint", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_weights_leave_and_come_home_by_the_real_command_line(url: str, tmp_path: Path) -> None:
    out = tmp_path / "my model"
    for arguments in (["export", url, str(out), "--max-shard-size", "20KB"], ["import", str(out), url]):
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=100)
        assert (done.returncode, done.stderr) == (0, "")
        assert "MiB/s" in done.stdout
    done = subprocess.run([*COMMAND, "list", url, "--json"], capture_output=True, text=True, check=True, timeout=100)
    steps = [(step["stage"], step["step"], step["state"]) for step in json.loads(done.stdout)["steps"]]
    assert steps == [("imported", 0, "complete"), ("pretrain", 1, "complete")]


def test_json_says_where_and_how_much(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "export", url, str(tmp_path / "out"), "--dtype", "fp32", "--json")
    told = json.loads(out)

    assert (code, told["url"]) == (0, f"file://{tmp_path}/out")
    assert told["bytes"] == sum(4 * tensor.numel() for tensor in saved_model(f"file://{tmp_path}/other").values())


def test_dynamic_ntk_is_the_reader_s_to_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model(f"file://{tmp_path}/run", Architecture(SMALL.model, 1e6, 64))
    for name, options, scaling in (("a", [], None), ("b", ["--dynamic-ntk", "2"], {"type": "dynamic", "factor": 2.0})):
        assert run(capsys, "export", f"file://{tmp_path}/run", str(tmp_path / name), *options)[0] == 0
        assert json.loads((tmp_path / name / "config.json").read_text())["rope_scaling"] == scaling


MISTAKES = {
    "no size": (["export", "{url}", "{tmp}/out", "--max-shard-size", "2XB"], "'2XB' is no size; write it like 2GB"),
    "a size of nothing": (["export", "{url}", "{tmp}/out", "--max-shard-size", "0GB"], "'0GB' is no size"),
    "no such run": (["export", "file://{tmp}/none", "{tmp}/out"], "has no checkpoint; give checkpoint.url of a run"),
    "a factor below one": (["export", "{url}", "{tmp}/out", "--dynamic-ntk", "0.5"], "0.5 is too small; use 1 or more"),
    "a folder in use": (["export", "{url}", "{tmp}/run"], "holds 3 files and no config.json; name an empty folder"),
    "no tokenizer there": (
        ["export", "{url}", "{tmp}/out", "--tokenizer", "{tmp}"],
        "has no tokenizer.model; name the folder that has it",
    ),
    "no folder of weights": (["import", "{tmp}/none", "{url}"], "has no config.json; name a folder of released"),
    "a stage that is no name": (["import", "{tmp}/none", "{url}", "--stage", "A b"], "'A b' is no name of a stage"),
    "a URL of another kind": (["import", "{tmp}/none", "http://x"], "not a storage URL"),
}


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_code_2(
    arguments: list[str], told: str, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [each.replace("{url}", url).replace("{tmp}", str(tmp_path)) for each in arguments]
    code, out, err = run(capsys, *filled)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert not (tmp_path / "out").exists()


def test_weights_of_another_model_than_the_preset_are_refused(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "export", url, str(tmp_path / "out"))
    code, _, err = run(capsys, "import", str(tmp_path / "out"), url, "--preset", "internlm2-7b")

    assert code == 2
    assert "config.json: num_hidden_layers is 2, and 32 in internlm2-7b; leave out --preset for a model of" in err


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("12B", 12), ("2GB", 2 * 10**9), ("2GiB", 2**31), ("5 MB", 5 * 10**6), ("3KB", 3000)]
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert weights.size_of(text, "--max-shard-size") == size


TEXT = [f"number {i} comes before number {i + 1} and after {i - 1}" for i in range(400)]


@pytest.fixture(scope="module")
def small_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "tokenizer.model").write_bytes(tokenizer.train(TEXT, pieces=320))
    return folder


@pytest.mark.parametrize("format", ["internlm2", "llama"])
def test_a_tokenizer_goes_along_and_is_described(
    format: str, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_model(f"file://{tmp_path}/run", wide(320))
    out = tmp_path / "out"
    code, _, _ = run(
        capsys, "export", f"file://{tmp_path}/run", str(out), "--format", format, "--tokenizer", str(small_tokenizer)
    )
    described = json.loads((out / "tokenizer_config.json").read_text())

    assert code == 0
    assert (out / "tokenizer.model").read_bytes() == (small_tokenizer / "tokenizer.model").read_bytes()
    assert described["tokenizer_class"] == {"internlm2": "InternLM2Tokenizer", "llama": "LlamaTokenizer"}[format]


def test_a_description_that_is_there_is_kept(
    small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "tokenizer.model").write_bytes((small_tokenizer / "tokenizer.model").read_bytes())
    (own / "tokenizer_config.json").write_text("{}")
    (own / "secrets.txt").write_text("not for everybody")
    saved_model(f"file://{tmp_path}/run", wide(320))
    run(capsys, "export", f"file://{tmp_path}/run", str(tmp_path / "out"), "--tokenizer", str(own))

    folder = files(storage.open_store(f"file://{tmp_path}/out"))
    assert folder["tokenizer_config.json"] == b"{}"
    assert "secrets.txt" not in folder


def test_a_tokenizer_with_more_pieces_than_the_model_has_rows_is_refused(
    url: str, small_tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, "export", url, str(tmp_path / "out"), "--tokenizer", str(small_tokenizer))

    assert code == 2
    assert "has 320 pieces, and the model 96 rows; name the tokenizer that the model was trained with" in err


@pytest.mark.skipif(not RELEASED.is_dir(), reason="the released tokenizer is not here")
def test_the_released_tokenizer_goes_along(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_model(f"file://{tmp_path}/run", wide(92544))
    code, _, _ = run(
        capsys, "export", f"file://{tmp_path}/run", str(tmp_path / "out"), "--tokenizer", str(RELEASED)
    )  # fmt: skip

    assert code == 0
    copied = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    assert copied.vocab_size() == 92544


def wide(vocab: int) -> Architecture:
    return Architecture(Model(layers=1, hidden=16, heads=2, kv_heads=1, ffn=16, vocab=vocab), 1e6, 64)
