"""The real helm, and the chart as it renders it."""

import os
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from lab.settings import CHECKOUT
from tests.api.apiserver import tools

CHART: Final = CHECKOUT / "charts/internlm2-operator"
PREVIOUS: Final = CHECKOUT / "tests/data/charts/internlm2-operator-0.1.0.tgz"
NAMESPACE: Final = "internlm2-system"


class Helm:
    """One helm binary, with its caches in a folder of the test."""

    def __init__(self, folder: Path, name: str = "helm", kubeconfig: Path | None = None) -> None:
        """`name` is helm or helm3; without `kubeconfig` no cluster is reached."""
        self._binary = tools(name)[name]
        self._env = {"HOME": str(folder), "PATH": os.environ["PATH"], "KUBECONFIG": str(kubeconfig or os.devnull)}

    def __call__(self, *args: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self._binary), *args]
        return subprocess.run(argv, capture_output=True, text=True, env=self._env, timeout=120, check=False)

    def run(self, *args: str) -> str:
        """Return what helm printed; a failure is an assertion with its words."""
        done = self(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def template(self, *args: str) -> list[dict[str, Any]]:
        """Return the objects that the chart renders to."""
        text = self.run(
            "template", "internlm2", str(CHART), "--namespace", NAMESPACE, "--kube-version", "1.29.0", *args
        )
        return [body for body in yaml.safe_load_all(text) if body]
