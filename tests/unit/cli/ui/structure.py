"""What is wrong with a document, of what a browser's accessibility checker would find without drawing it."""

import itertools
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Final

VOID: Final = frozenset({"meta", "link", "input", "br", "img"})
Attributes = dict[str, str]


class Document(HTMLParser):
    """Elements in order, each with its attributes, and all text of a document and of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, Attributes]] = []
        self.inside: list[tuple[str, str]] = []  # name of the innermost element, text
        self.unbalanced: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.unbalanced += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.inside.append((self._open[-1] if self._open else "", data.strip()))

    def all(self, name: str) -> list[Attributes]:
        return [attributes for tag, attributes in self.elements if tag == name]

    def texts(self, name: str) -> list[str]:
        return [text for tag, text in self.inside if tag == name]

    @property
    def text(self) -> str:
        return "\n".join(text for _, text in self.inside)


def wrong(text: str) -> list[str]:
    """Return what is wrong with a document, nothing when all is well."""
    return [*_structure(Document(text)), *_names(Document(text)), *_foreign(Document(text))]


def _structure(page: Document) -> Iterator[str]:
    if page.unbalanced:
        yield f"elements are not closed: {page.unbalanced}"
    if not page.all("html") or not page.all("html")[0].get("lang"):
        yield "the document has no language"
    for name in ("title", "main", "h1", "header", "nav", "footer"):
        if len(page.all(name)) != 1 + (name == "title") * len(page.all("svg")):
            yield f"{len(page.all(name))} elements {name}"
    levels = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    if any(later > before + 1 for before, later in itertools.pairwise(levels)):
        yield f"a level of headings is left out: {levels}"
    links = [a for tag, a in page.elements if tag == "a"]
    if not links or links[0].get("href") != f"#{page.all('main')[0].get('id')}":
        yield "the first link does not skip to the content"
    if page.all("table") and len(page.all("caption")) != len(page.all("table")):
        yield "a table has no caption"
    if any(a.get("scope") not in ("col", "row") for a in page.all("th")):
        yield "a heading of a table has no scope"
    if any(a.get("http-equiv") == "refresh" for a in page.all("meta")):
        yield "the page reloads by itself"


def _names(page: Document) -> Iterator[str]:
    ids = [a["id"] for _, a in page.elements if "id" in a]
    if len(ids) != len(set(ids)):
        yield f"ids are not unique: {ids}"
    for tag, attributes in page.elements:
        if not {*attributes.get("aria-labelledby", "").split()} <= set(ids):
            yield f"{tag} is named by an element that is not there: {attributes['aria-labelledby']}"
    labelled = {a.get("for") for a in page.all("label")}
    if any(a.get("id") not in labelled for a in page.all("input")):
        yield "an input has no label"
    for tag in ("svg", "progress", "nav", "form"):
        if any(not (a.get("aria-labelledby") or a.get("aria-label")) for a in page.all(tag)):
            yield f"{tag} has no name"
    if any("scroll" in a.get("class", "") and a.get("tabindex") != "0" for a in page.all("div")):
        yield "what scrolls cannot be reached by keyboard"


def _foreign(page: Document) -> Iterator[str]:
    for tag, attributes in page.elements:
        if tag in ("script", "style", "iframe", "object", "embed") or "style" in attributes:
            yield f"{tag} is not allowed by the content policy"
        if any(name.startswith("on") for name in attributes):
            yield f"{tag} has a script"
        for name in ("href", "src", "action"):
            if ":" in attributes.get(name, "").partition("?")[0] or attributes.get(name, "").startswith("/"):
                yield f"{tag} leads elsewhere: {attributes[name]}"
