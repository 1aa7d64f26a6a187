import pathlib

import pytest
import sentencepiece

from internlm2_trainer.cli import tokenizer
from internlm2_trainer.data import text

ROOT = pathlib.Path(__file__).parents[3]
MODEL = ROOT / "examples/tokenizer/internlm2-2k.model"


@pytest.fixture(scope="module")
def model() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=MODEL.read_bytes())


def test_the_committed_tokenizer_is_what_the_corpus_yields(tmp_path: pathlib.Path) -> None:
    output = tmp_path / "t.model"
    assert tokenizer.main(["--input", str(ROOT / "examples/corpus"), "--output", str(output)]) == 0
    assert output.read_bytes() == MODEL.read_bytes()


def test_the_vocabulary_begins_with_unk_bos_eos_and_the_specials(model: sentencepiece.SentencePieceProcessor) -> None:
    assert model.vocab_size() == 2048
    assert [model.id_to_piece(i) for i in range(10)] == ["<unk>", "<s>", "</s>", *tokenizer.SPECIALS]


def test_text_that_spells_a_special_token_does_not_become_one(model: sentencepiece.SentencePieceProcessor) -> None:
    assert not set(model.encode("<|im_start|>user <|im_end|></s>")) & set(range(10))


@pytest.mark.parametrize("original", [" two  spaces ", "a\n\tb\r\n", "日本語 and ½", "1234567", ""])
def test_text_comes_back_as_it_was(original: str, model: sentencepiece.SentencePieceProcessor) -> None:
    assert model.decode(model.encode(original)) == original


def test_a_corpus_too_small_for_the_pieces_is_data(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("few words here\n")
    assert tokenizer.main(["--input", str(tmp_path), "--output", str(tmp_path / "m")]) == 65
    assert "ask for fewer pieces or add text" in capsys.readouterr().err


def test_files_are_found_sorted_and_only_text_in_folders(tmp_path: pathlib.Path) -> None:
    for name in ("b.txt", "a.txt", "sub/c.txt", "d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in text.files([tmp_path, tmp_path / "d.md"])] == ["a.txt", "b.txt", "c.txt", "d.md"]
