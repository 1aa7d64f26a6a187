"""`internlm2` and the operator's own command line: what they print, and how they refuse."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.apiserver import ApiServer
from tests.api.jobs import job
from tests.api.rest import JOBS, Rest

pytestmark = pytest.mark.api


def run(module: str, *args: str, kubeconfig: Path | str) -> subprocess.CompletedProcess[str]:
    env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ} | {
        "KUBECONFIG": str(kubeconfig)
    }
    argv = [sys.executable, "-m", module, *args]
    return subprocess.run(argv, capture_output=True, text=True, env=env, timeout=120, check=False)


@pytest.fixture(scope="module")
def namespace(api: ApiServer) -> str:
    """A namespace with the job `told`, whose Secret does not exist."""
    rest = Rest(api)
    rest("POST", "/api/v1/namespaces", {"metadata": {"name": "asked"}})
    body = job({"metadata.name": "told", "metadata.namespace": "asked"})
    rest("POST", f"{JOBS}/namespaces/asked/internlm2jobs", body)
    return "asked"


VERBS = {
    "status": "asked/told: Pending, stage -, attempt 0",
    "faults": "asked/told: no faults",
    "why": "asked/told: what each decision says, in the order they are asked",
}


@pytest.mark.parametrize(("verb", "first"), VERBS.items(), ids=VERBS)
def test_a_verb_answers_about_a_new_job(api: ApiServer, namespace: str, verb: str, first: str) -> None:
    done = run("internlm2_operator.cli", verb, "told", "-n", namespace, kubeconfig=api.kubeconfig)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == first


def test_why_names_what_is_missing(api: ApiServer, namespace: str) -> None:
    done = run("internlm2_operator.cli", "why", "told", "-n", namespace, kubeconfig=api.kubeconfig)
    assert "SecretMissing" in done.stdout


def test_an_unknown_job_is_one_line_and_2(api: ApiServer) -> None:
    done = run("internlm2_operator.cli", "status", "nobody", kubeconfig=api.kubeconfig)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "NAME: no InternLM2Job nobody in namespace default; see `kubectl get ilj -A`\n"


@pytest.mark.parametrize("module", ["internlm2_operator.cli", "internlm2_operator"])
def test_without_a_cluster_it_is_one_line_and_2(module: str, tmp_path: Path) -> None:
    args = ("status", "told") if module.endswith("cli") else ("run", "--metrics-port=0")
    done = run(module, *args, kubeconfig=tmp_path / "none")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("KUBECONFIG: ")
    assert "Traceback" not in done.stderr


def test_help_teaches_by_an_example(tmp_path: Path) -> None:
    done = run("internlm2_operator.cli", "--help", kubeconfig=tmp_path)
    assert "example: internlm2 faults demo -n training" in done.stdout
