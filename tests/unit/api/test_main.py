"""The generated files are fresh, and the command says what is wrong."""

from pathlib import Path
from typing import Final

import pytest

from internlm2_operator.api import __main__ as generate

ROOT: Final = Path(__file__).parents[3]


def test_committed_files_are_what_the_models_say_now() -> None:
    assert generate.stale(ROOT) == []


def test_check_names_a_stale_file_and_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "pyproject.toml").touch()
    generate.write(tmp_path)
    (tmp_path / generate.PAGE_PATH).write_text("edited by hand")
    assert generate.main(["--root", str(tmp_path), "--check"]) == 1
    assert capsys.readouterr().err == f"{generate.PAGE_PATH}: stale; run `python -m internlm2_operator.api`\n"


def test_a_folder_that_is_not_the_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate.main(["--root", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith("holds no pyproject.toml; pass the root of the repository\n")
