"""Pages as HTML: one template each, everything escaped. Pure."""

from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Final
from urllib.parse import urlencode

import jinja2

from internlm2_operator.cli.ui.pages import Jobs, Page

RELOAD_SECONDS: Final = 30
STYLE: Final = (files(__package__) / "templates" / "style.css").read_text()
_PAGES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader(__package__),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is seen. `root` leads from it to the first page, whatever path a proxy put before both.

    `reloads` is false unless the reader asked for it: a page that reloads by itself takes the place of who reads it by
    keyboard or ear.
    """

    root: str
    now: datetime
    reloads: bool = False


def render(page: Page, place: Place) -> str:
    """Return a page as a document."""
    kept = {"namespace": page.namespace} if isinstance(page, Jobs) and page.namespace else {}
    return _PAGES.get_template(page.template).render(
        page=page,
        place=place,
        seconds=RELOAD_SECONDS,
        still="?" + urlencode(kept),
        reloading="?" + urlencode(kept | {"reload": "1"}),
        now=place.now.strftime("%Y-%m-%d %H:%M:%S UTC"),
    )
