"""Write the dashboards of the chart, or say which are stale.

python -m dashboards [--root FOLDER] [--check]
"""

import argparse
import sys
from pathlib import Path
from typing import Final

from dashboards import build, faults, fleet, job, operator

FOLDER: Final = "charts/internlm2-operator/dashboards"
BOARDS: Final = (fleet.BOARD, job.BOARD, faults.BOARD, operator.BOARD)


def generated() -> dict[str, str]:
    """Return the text of every dashboard by its path in the repository."""
    return {f"{FOLDER}/{board.name}.json": build.text(board) for board in BOARDS}


def stale(root: Path) -> list[str]:
    """Return the paths whose committed text is not what the boards say now, and those of boards that are gone."""
    wanted = generated()
    old = {path for path, text in wanted.items() if not _holds(root / path, text)}
    there = {f"{FOLDER}/{path.name}" for path in (root / FOLDER).glob("*.json")}
    return sorted(old | (there - wanted.keys()))


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def main(argv: list[str] | None = None) -> int:
    """Return 0, 1 when `--check` finds a stale file, 2 when the root is not the repository."""
    parser = argparse.ArgumentParser(prog="python -m dashboards", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository (default: this folder)")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file is stale")
    options = parser.parse_args(argv)
    if not (options.root / "pyproject.toml").is_file():
        wrong = f"--root: `{options.root}` holds no pyproject.toml; pass the root of the repository"
        print(wrong, file=sys.stderr)
        return 2
    if options.check:
        for path in (old := stale(options.root)):
            print(f"{path}: stale; run `python -m dashboards`", file=sys.stderr)
        return 1 if old else 0
    for path, text in generated().items():
        (options.root / path).parent.mkdir(parents=True, exist_ok=True)
        (options.root / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
