"""Write what is generated: the CRD of the chart and its reference page from the API models, the pages of
metrics and of faults.

python -m internlm2_operator.api [--root FOLDER] [--check]
"""

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import yaml

from internlm2_operator.api import crd, metrics, reference
from internlm2_operator.plan import faults_page
from internlm2_spec.config import Refused

SOURCE: Final = "Generated from operator/internlm2_operator/api by `python -m internlm2_operator.api`; do not edit."
CRD_PATH: Final = "charts/internlm2-operator/files/internlm2jobs.yaml"
PAGE_PATH: Final = "docs/api.md"
METRICS_PATH: Final = "docs/metrics.md"
FAULTS_PATH: Final = "docs/faults.md"
FAULTS_SOURCE: Final = (
    "Generated from operator/internlm2_operator/plan/causes.py by `python -m internlm2_operator.api`; do not edit."
)
METRICS_SOURCE: Final = (
    "Generated from trainer/internlm2_spec/metrics.py by `python -m internlm2_operator.api`; do not edit."
)


class _Plain(yaml.SafeDumper):
    """Equal parts are written out each time: an anchor is hard to read and some tools refuse it."""

    def ignore_aliases(self, _data: Any) -> bool:
        return True


def generated() -> dict[str, str]:
    """Return the text of every generated file by its path in the repository."""
    body = yaml.dump(crd.definition(), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
    return {
        CRD_PATH: f"# {SOURCE}\n{body}",
        PAGE_PATH: f"<!-- {SOURCE} -->\n\n{reference.page()}",
        METRICS_PATH: f"<!-- {METRICS_SOURCE} -->\n\n{metrics.page()}",
        FAULTS_PATH: f"<!-- {FAULTS_SOURCE} -->\n\n{faults_page.page()}",
    }


def stale(root: Path) -> list[str]:
    """Return the paths whose committed text is not what the models say now."""
    return [path for path, text in generated().items() if not _holds(root / path, text)]


def _holds(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def write(root: Path) -> None:
    """Write every generated file below the root of the repository."""
    for path, text in generated().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Return 0, 1 when `--check` finds a stale file, 2 when the root is not the repository."""
    parser = argparse.ArgumentParser(prog="python -m internlm2_operator.api", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="root of the repository (default: this folder)")
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file is stale")
    options = parser.parse_args(argv)
    try:
        return _run(options.root, check=options.check)
    except Refused as refused:
        print(refused, file=sys.stderr)
        return 2


def _run(root: Path, *, check: bool) -> int:
    if not (root / "pyproject.toml").is_file():
        raise Refused("--root", wrong=f"`{root}` holds no pyproject.toml", right="pass the root of the repository")
    if not check:
        write(root)
        return 0
    for path in (old := stale(root)):
        print(f"{path}: stale; run `python -m internlm2_operator.api`", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
