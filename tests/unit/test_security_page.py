"""`docs/security.md` lists every attempt and names only tests that there are."""

import ast
import re
from collections.abc import Iterator

from lab.settings import CHECKOUT
from tests.api import test_security

PAGE = (CHECKOUT / "docs/security.md").read_text(encoding="utf-8")


def known() -> Iterator[str]:
    for path in (CHECKOUT / "tests").rglob("test_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef):
                yield node.name


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 15
    assert named - set(known()) == set()


def test_its_tables_are_the_rows_of_the_tests() -> None:
    rows = set(re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE))
    for table in (test_security.RULES, test_security.UNKNOWN, test_security.CALLS):
        assert set(table) - rows == set()


def test_there_are_at_least_25_attempts() -> None:
    assert len(test_security.RULES) + len(test_security.UNKNOWN) + len(test_security.CALLS) == 67
