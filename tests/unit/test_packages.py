"""The folder `operator/` must never shadow the standard library's module of that name."""

import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_no_init_file_makes_a_package_of_operator_or_trainer() -> None:
    """A regular package `operator` at the root would win over the standard library's."""
    assert [f for f in ("operator", "trainer") if (TOP / f / "__init__.py").exists()] == []


def test_standard_operator_is_imported_from_the_repository_root() -> None:
    """Python puts the working directory first on its path; the namespace folder must still lose."""
    code = "import operator, collections, dataclasses; print(operator.eq(1, 1), operator.__file__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("True ")
    assert str(TOP) not in done.stdout
