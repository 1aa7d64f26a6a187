"""No program of ours hands text to a shell: what a user wrote stays an argument."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from lab.settings import CHECKOUT

FOLDERS: Final = ("operator", "trainer")
FILES: Final = sorted(path for folder in FOLDERS for path in (CHECKOUT / folder).rglob("*.py"))
SHELLS: Final = {"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"}


def shells(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that start a shell."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        asked = any(k.arg == "shell" and not (isinstance(k.value, ast.Constant) and not k.value.value)
                    for k in node.keywords)  # fmt: skip
        told = any(isinstance(c, ast.Constant) and c.value in ("sh", "bash", "/bin/sh", "/bin/bash")
                   for a in node.args if isinstance(a, ast.List | ast.Tuple) for c in a.elts)  # fmt: skip
        if name in SHELLS or asked or told:
            yield node.lineno


def test_nothing_that_is_shipped_starts_a_shell() -> None:
    assert len(FILES) > 100
    assert [(str(p), line) for p in FILES for line in shells(ast.parse(p.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    "text",
    [
        "os.system(f'ls {x}')",
        "subprocess.run(x, shell=True)",
        "run(['sh', '-c', x])",
        "asyncio.create_subprocess_shell(x)",
    ],
)
def test_a_shell_is_found(text: str) -> None:
    """The control."""
    assert list(shells(ast.parse(text))) == [1]


def test_every_locked_package_has_hashes() -> None:
    """What is installed is what was locked, or the installer refuses it."""
    packages = Path(CHECKOUT / "uv.lock").read_text(encoding="utf-8").split("[[package]]")[1:]
    foreign = [package for package in packages if "source = { registry" in package]
    assert len(foreign) > 50
    assert [p.splitlines()[1] for p in foreign if "hash = " not in p and "sdist" in p] == []
    files = [line for p in foreign for line in p.splitlines() if "url = " in line]
    assert [line for line in files if 'hash = "sha256:' not in line] == []
