"""Pictures of `internlm2 ui` for docs/ui.md: `python -m lab.screens URL NAMESPACE/JOB`, URL being what it printed.

The fault that is drawn is the job's last one, the node is that fault's.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from lab.browser import Browser, browser
from lab.settings import CHECKOUT, LabError

WIDTH, HEIGHT = 1280, 720
# Each page, and the link on the page before that leads to it.
WAY: Final = (
    ("jobs", ""),
    ("job", "main tbody th a[href$='jobs/{job}']"),
    ("fault", "main tbody tr:last-child a[href*='/faults/']"),
    ("node", "main dd a[href*='nodes/']"),
)


async def walk(url: str, job: str) -> AsyncIterator[tuple[str, Browser]]:
    """Yield the name of each page and the browser that it is open in.

    Raises:
        LabError: a page has no link to the next: there is no such job, or its last fault is of no node.
    """
    async with browser() as chromium:
        await chromium.look(scheme="light", width=WIDTH, height=HEIGHT)
        for name, link in WAY:
            found = json.dumps(link.replace("{job}", job))
            there = await chromium.value(f"document.querySelector({found})?.href") if link else url
            if not there:
                raise LabError(f"{name}: no link leads there")
            await chromium.open(there)
            yield name, chromium


async def _write(url: str, job: str, folder: Path) -> None:
    async for name, chromium in walk(url, job):
        path = folder / f"ui-{name}.png"
        path.write_bytes(await chromium.picture())
        print(path)


def main() -> int:
    """Write the pictures (0), or say why not (1)."""
    parser = argparse.ArgumentParser(prog="python -m lab.screens", description=__doc__)
    parser.add_argument("url", help="what `internlm2 ui` printed")
    parser.add_argument("job", metavar="NAMESPACE/JOB", help="a job whose last fault is of a node")
    parser.add_argument("--out", type=Path, default=CHECKOUT / "docs/images", help="folder, default docs/images")
    asked = parser.parse_args()
    try:
        asyncio.run(_write(asked.url, asked.job, asked.out))
    except LabError as error:
        print(f"screens: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
