"""`torchx -s internlm2` against a real API server, in the two shapes that torchx has for a torchrun job."""

import os
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from torchx.components import dist
from torchx.runner.api import Runner
from torchx.specs import AppDef, AppState, InvalidRunConfigException

from internlm2_torchx.scheduler import create_scheduler
from lab.settings import CHECKOUT
from tests.api.apiserver import ApiServer
from tests.api.jobs import job
from tests.api.kubelet import Kubelet
from tests.api.rest import JOBS, Rest
from tests.api.stage import make_pod

pytestmark = [
    pytest.mark.api,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
]

SPACE = "torchx"


@pytest.fixture(scope="module")
def rest(api: ApiServer) -> Rest:
    found = Rest(api)
    found("POST", "/api/v1/namespaces", {"metadata": {"name": SPACE}})
    return found


@pytest.fixture
def runner(api: ApiServer, rest: Rest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Runner]:  # noqa: ARG001
    """torchx's own runner, which finds the scheduler by its entry point's function."""
    monkeypatch.setenv("KUBECONFIG", str(api.kubeconfig))
    with Runner("test", {"internlm2": create_scheduler}) as made:
        yield made


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job()))
    return str(path)


def app(shape: str, **asked: Any) -> AppDef:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: AppDef = getattr(dist, shape)(
            **({"m": "internlm2_trainer", "j": "2:4x8", "gpu": 8, "image": "registry/trainer:1"} | asked)
        )
    return made


def named(path: str, name: str) -> dict[str, str]:
    body = yaml.safe_load(Path(path).read_text())
    body["metadata"]["name"] = name
    Path(path).write_text(yaml.safe_dump(body))
    return {"job": path, "namespace": SPACE}


@pytest.mark.parametrize("shape", ["ddp", "torchrun"])
def test_a_job_is_submitted_listed_cancelled(runner: Runner, rest: Rest, file: str, shape: str) -> None:
    handle = runner.run(app(shape, env={"A": "b"}), "internlm2", named(file, shape))
    assert handle == f"internlm2://test/{SPACE}:{shape}"
    spec = rest("GET", f"{JOBS}/namespaces/{SPACE}/internlm2jobs/{shape}")["spec"]
    assert (spec["nodes"]["min"], spec["nodes"]["max"], spec["nodes"]["gpusPerNode"]) == (2, 4, 8)
    assert spec["template"]["image"] == "registry/trainer:1"
    assert {"name": "A", "value": "b"} in spec["template"]["env"]
    status = runner.status(handle)
    assert status is not None
    assert status.state == AppState.PENDING
    assert f"{SPACE}:{shape}" in [one.app_id for one in runner.list("internlm2", cfg={"namespace": SPACE})]
    runner.cancel(handle)
    assert rest("GET", f"{JOBS}/namespaces/{SPACE}/internlm2jobs/{shape}")["spec"]["suspend"] is True
    status = runner.status(handle)
    assert status is not None
    assert status.state == AppState.CANCELLED
    runner.delete(handle)
    assert rest.maybe(f"{JOBS}/namespaces/{SPACE}/internlm2jobs/{shape}") is None
    assert runner.status(handle) is None


def test_a_log_is_that_of_the_slot(runner: Runner, api: ApiServer, rest: Rest, file: str) -> None:
    handle = runner.run(app("torchrun"), "internlm2", named(file, "job"))
    with Kubelet(api) as kubelet:
        rest("POST", "/api/v1/nodes", {"metadata": {"name": "torchx-node"}})
        rest.merge("/api/v1/nodes/torchx-node/status", {"status": kubelet.status()})
        make_pod(rest, SPACE, "member", "torchx-node", "Running", attempt=0, slot=1)
        lines = list(runner.log_lines(handle, "trainer", k=1))
        assert lines == [f"line 1 of {SPACE}/member/trainer\n", "line 2, the last\n"]
        assert list(runner.log_lines(handle, "trainer", k=1, regex="last")) == lines[1:]


def test_a_job_that_is_there_is_told_and_not_changed(runner: Runner, file: str) -> None:
    asked = named(file, "twice")
    runner.run(app("torchrun"), "internlm2", asked)
    with pytest.raises(InvalidRunConfigException, match="already exists"):
        runner.run(app("torchrun", j="2x8"), "internlm2", asked)


def test_what_the_api_server_would_refuse_is_refused_before_it_is_asked(runner: Runner, file: str) -> None:
    with pytest.raises(InvalidRunConfigException, match=r"nodes\.min 3 x 8 GPUs = 24 ranks is not divisible by"):
        runner.dryrun(app("torchrun", j="3x8"), "internlm2", named(file, "odd"))


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with the entry points of pyproject.toml, as the installed distribution has them."""
    points = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["entry-points"]
    info = tmp_path / "internlm2-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: internlm2\nVersion: 0\n")
    group = "torchx.schedulers"
    lines = [f"[{group}]", *(f"{name} = {target}" for name, target in points[group].items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    return tmp_path


def test_the_command_line_of_torchx_finds_the_scheduler(api: ApiServer, rest: Rest, installed: Path, file: str) -> None:
    named(file, "typed")

    def torchx(*args: str) -> str:
        env = os.environ | {"KUBECONFIG": str(api.kubeconfig), "TORCHX_HOME": str(installed / "home")}
        env["PYTHONPATH"] = os.pathsep.join(map(str, (installed, CHECKOUT / "operator", CHECKOUT / "trainer")))
        argv = [sys.executable, "-m", "torchx.cli.main", *args]
        done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=installed, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    cfg = f"job={file},namespace={SPACE}"
    shape = ("dist.torchrun", "-j", "2x8", "--gpu", "8", "-m", "internlm2_trainer")
    assert "kind: InternLM2Job" in torchx("run", "--dryrun", "-s", "internlm2", "-cfg", cfg, *shape)
    assert rest.maybe(f"{JOBS}/namespaces/{SPACE}/internlm2jobs/typed") is None
    said = torchx("run", "-s", "internlm2", "-cfg", cfg, *shape)
    (handle,) = {word for word in said.split() if word.startswith("internlm2://") and word.endswith(f"{SPACE}:typed")}
    assert "PENDING" in torchx("status", handle)
    assert f"{SPACE}:typed" in torchx("list", "-s", "internlm2")
    torchx("cancel", handle)
    assert "CANCELLED" in torchx("status", handle)
