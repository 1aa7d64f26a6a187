"""Write manifests/install.yaml, the chart as one file for `kubectl apply`.

python -m lab.install_manifest [--check]
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

import yaml

from lab import build
from lab.settings import CHECKOUT, LabError

NAMESPACE: Final = "internlm2-system"
KUBERNETES: Final = "1.30.0"
PATH: Final = CHECKOUT / "manifests/install.yaml"
_HEAD: Final = """\
# Rendered from charts/internlm2-operator by `python -m lab.install_manifest`; do not edit.
# For Kubernetes {kubernetes} and newer: kubectl apply --server-side -f manifests/install.yaml
"""


def rendered(helm: Path) -> str:
    """Return the file's text.

    Raises:
        LabError: helm refuses the chart.
    """
    argv = [str(helm), "template", "internlm2", str(CHECKOUT / "charts/internlm2-operator"), "--namespace", NAMESPACE,
            "--kube-version", KUBERNETES, "--skip-tests"]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        raise LabError(f"helm template: {done.stderr.strip()}")
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    # Releases of helm differ in comments and empty lines: the objects count.
    bodies = [space, *(body for body in yaml.safe_load_all(done.stdout) if body)]
    text = yaml.safe_dump_all(bodies, sort_keys=False, width=120, allow_unicode=True)
    return f"{_HEAD.format(kubernetes=KUBERNETES)}{text}"


def main(argv: list[str] | None = None) -> int:
    """Return 0, 1 when `--check` finds a stale file, 2 when helm is not there or refuses."""
    parser = argparse.ArgumentParser(prog="python -m lab.install_manifest", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when the file is stale")
    options = parser.parse_args(argv)
    try:
        text = rendered(build.binaries()["helm"])
    except LabError as error:
        print(error, file=sys.stderr)
        return 2
    if not options.check:
        PATH.write_text(text, encoding="utf-8")
        return 0
    if PATH.is_file() and PATH.read_text(encoding="utf-8") == text:
        return 0
    print("manifests/install.yaml: stale; run `python -m lab.install_manifest`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
