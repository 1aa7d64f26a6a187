"""`docs/architecture.md` names only files that exist."""

import re
from pathlib import Path

TOP = Path(__file__).parents[2]


def test_every_path_in_the_table_of_concepts_exists() -> None:
    """A map that points nowhere is worse than none."""
    table = (TOP / "docs" / "architecture.md").read_text().split("## Where to look")[1]
    paths = re.findall(r"`([\w./-]+/[\w./-]*)`", table)
    assert len(paths) >= 10
    assert [p for p in paths if not (TOP / p).exists()] == []
