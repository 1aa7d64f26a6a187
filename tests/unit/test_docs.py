"""Links between pages lead somewhere, and the commands that pages name exist."""

import contextlib
import importlib.util
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from internlm2_operator.cli import arguments

ROOT = Path(__file__).parents[2]
PAGES = sorted(p for p in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("tests/**/README.md")])
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_CODE = re.compile(r"^(```.*?^```|(?:    .*\n)+)", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as its readers' software makes them."""
    words = (re.sub(r"[^\w\- ]", "", heading.lower()).strip() for heading in _HEADING.findall(text))
    return {re.sub(r"[ ]", "-", each) for each in words}


def broken(page: Path, text: str) -> list[str]:
    """Return the links of a page that lead nowhere within the repository."""
    found = []
    for first, second in _LINK.findall(_CODE.sub("", text)):
        target, _, anchor = (first or second).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (page.parent / target) if target else page
        inside = not anchor or (path.suffix == ".md" and path.is_file() and anchor in anchors(path.read_text()))
        if not path.exists() or not inside:
            found.append(first or second)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page, page.read_text()) == []


def test_the_control_finds_a_page_and_a_heading_that_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One of two\n")
    text = (
        "[a](there.md) [b](there.md#one-of-two) [c](gone.md) [d](there.md#three) [e](https://x.org)\n\n    [f](n.md)\n"
    )
    assert broken(tmp_path / "page.md", text) == ["gone.md", "there.md#three"]


_TYPED = re.compile(r"^    (?:\$ )?(.+)$|`([^`\n]+)`", re.MULTILINE)
_TARGETS = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def typed(text: str) -> Iterator[list[str]]:
    """Yield the words of what a page tells to type, continued lines as one."""
    for block, inline in _TYPED.findall(text.replace("\\\n", " ")):
        yield re.split(r"\s{2,}#?|\s+[|&>#]", (block or inline).strip())[0].split()


def unknown(text: str) -> list[str]:
    """Return the commands of ours on a page that do not exist, or have no such flag."""
    return [" ".join(words) for words in typed(text) if words and not _known(words)]


def _known(words: list[str]) -> bool:
    match words:
        case ["make", target, *_] if re.fullmatch("[a-z0-9-]+", target):
            return target in _TARGETS
        case ["python" | "python3", "-m", module, *_]:
            return importlib.util.find_spec(module) is not None
        case [("internlm2"), verb, *rest] if re.fullmatch("[a-z-]+", verb):
            told = _help(verb)
            return all(flag.partition("=")[0] in told for flag in rest if flag.startswith("--")) if told else False
    return True


def _help(verb: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
        arguments.parse([verb, "--help"], "internlm2")
    return out.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    assert unknown(page.read_text()) == []


def test_the_control_finds_commands_that_do_not() -> None:
    text = "`make test` `make tset`\n\n    internlm2 plan -f x --gpu h100\n    $ internlm2 plan --colour  # why\n"
    assert unknown(text + "    internlm2 go\n    python -m lab up\n    python -m no_such up\n") == [
        "make tset",
        "internlm2 plan --colour",
        "internlm2 go",
        "python -m no_such up",
    ]
