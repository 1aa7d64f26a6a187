import io
import pathlib
import uuid

import numpy as np
import pytest
import sentencepiece

from internlm2_trainer import storage
from internlm2_trainer.cli import tokenize
from internlm2_trainer.data.packing import read_index
from tests import servers

MODEL = pathlib.Path(__file__).parents[3] / "examples/tokenizer/internlm2-2k.model"


def run(source: pathlib.Path, output: str, *more: str) -> int:
    return tokenize.main(["--input", str(source), "--tokenizer", str(MODEL), "--output", output, *more])


@pytest.fixture
def source(tmp_path: pathlib.Path) -> pathlib.Path:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "1.txt").write_text("The first document.\nIt has two lines.\n")
    (folder / "2.txt").write_text("The second.")
    (folder / "3.txt").write_text("\n")
    return folder


def test_each_file_is_a_document_between_bos_and_eos(source: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert run(source, f"file://{tmp_path}/out") == 0
    tokens = np.fromfile(tmp_path / "out/shard-00000.bin", dtype="<u2").tolist()
    ends = np.load(tmp_path / "out/shard-00000.ends.npy").tolist()
    model = sentencepiece.SentencePieceProcessor(model_proto=MODEL.read_bytes())
    documents = [tokens[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    assert [(d[0], d[-1]) for d in documents] == [(1, 2), (1, 2)]
    assert [model.decode(d[1:-1]) for d in documents] == [
        "The first document.\nIt has two lines.\n",
        "The second.",
    ]


def test_the_same_text_gives_the_same_corpus_on_s3_and_in_a_folder(
    source: pathlib.Path, tmp_path: pathlib.Path, s3: servers.S3Server
) -> None:
    urls = [f"file://{tmp_path}/out", s3.url(f"tokens/{uuid.uuid4()}")]
    assert [run(source, url, "--shard-tokens", "8") for url in urls] == [0, 0]
    folder, bucket = (read_index(storage.open_store(url)) for url in urls)
    assert folder == bucket
    assert len(folder.shards) == 2


def not_utf8(folder: pathlib.Path) -> None:
    (folder / "2.txt").write_bytes(b"good line\nbad \xff line\n")


def all_empty(folder: pathlib.Path) -> None:
    for path in folder.glob("*.txt"):
        path.write_text(" \n")


def no_files(folder: pathlib.Path) -> None:
    for path in folder.glob("*.txt"):
        path.unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (not_utf8, "{folder}/2.txt:2: byte 0xff is not UTF-8; convert the file to UTF-8\n"),
        (all_empty, "{folder}/1.txt:1: the corpus is empty: no text in 3 file(s); name files with text\n"),
        (no_files, "{folder}: has no *.txt; put one document a file there\n"),
    ],
)
def test_text_that_cannot_be_used_is_named_with_file_and_line_and_exits_65(
    spoil: object, message: str, source: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(spoil)
    spoil(source)
    assert run(source, f"file://{tmp_path}/out") == 65
    assert capsys.readouterr().err == message.format(folder=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("output", "tokenizer", "message"),
    [
        ("ftp://x", str(MODEL), "ftp://x: not a storage URL; write s3://bucket/prefix or file:///folder\n"),
        ("file:///nowhere", __file__, "is no SentencePiece model"),
        ("file:///nowhere", "/no/such/file", "is no SentencePiece model"),
    ],
)
def test_a_wrong_command_line_is_configuration(
    output: str, tokenizer: str, message: str, source: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tokenize.main(["--input", str(source), "--tokenizer", tokenizer, "--output", output]) == 64
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_progress_is_silent_for_five_seconds_and_then_says_how_long_still() -> None:
    now = iter([0.0, 2.0, 6.0, 6.5, 8.0])
    stream = io.StringIO()
    progress = tokenize.Progress(8_000_000, stream=stream, clock=lambda: next(now))
    for done in (1_000_000, 3_000_000, 4_000_000, 6_000_000):
        progress.at(done)
    assert stream.getvalue() == "tokenize: 37% of 8.0 MB, 10 s left\ntokenize: 75% of 8.0 MB, 3 s left\n"
