"""What a user does with helm, on real kubelets: install, upgrade, roll back, uninstall, while a job trains."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import pytest

from internlm2_spec.contract import LABEL_JOB
from lab import newcomer, scene
from lab.newcomer import DEFINITION, JOB, SYSTEM, TEAM, WHERE
from lab.scene import WAITING
from lab.watch import JobWatch
from tests.api.apiserver import wait_for
from tests.api.helm import PREVIOUS
from tests.api.ui import get
from tests.e2e.world import World, operator_account

pytestmark = pytest.mark.timeout(900)

BINDING: Final = "chart-0.1-runs-todays-operator"


@pytest.fixture
def bare(world: World) -> Iterator[World]:
    """Give the lab without our chart and its definitions."""
    with newcomer.bare(world.lab):
        yield world


@contextlib.contextmanager
def untouched(watch: JobWatch, what: str) -> Iterator[None]:
    """Hold that the block leaves the job's pods alone, and that they go on training."""
    before = pods()
    yield
    since = watch.seen.last_step
    watch.wait(lambda s: s.last_step >= since + 5, seconds=120, what=f"steps after the {what}")
    assert pods() == before, what


def pods() -> dict[str, tuple[str, int]]:
    """Return uid and restarts of each of the job's pods."""
    found = json.loads(scene.kubectl("get", "pods", "-n", TEAM, "-l", f"{LABEL_JOB}={JOB}", "-o", "json"))["items"]
    return {
        pod["metadata"]["name"]: (
            pod["metadata"]["uid"],
            sum(c["restartCount"] for c in pod["status"].get("containerStatuses", [])),
        )
        for pod in found
    }


def all_run(watch: JobWatch) -> None:
    watch.wait(
        lambda s: s.checkpoint >= 5 and (s.status.get("nodes") or {}).get("ready") == 3, seconds=240, what="a full job"
    )


def kill_a_process(world: World, watch: JobWatch) -> None:
    """Show that the operator, whoever installed it, has the job in its hands; no pod is made anew for it."""
    pod, _ = watch.seen.member(first=False)
    world.lab.fault("process-kill", pod=f"{TEAM}/{pod}")
    watch.wait(lambda s: bool(s.closed), seconds=240, what="process-kill healed")
    assert watch.seen.status["attempt"] == 1


def pages_show_to_each_what_he_may_see() -> None:
    """Open the pages that the chart serves as docs/ui.md tells; the account may look at one namespace's jobs."""
    scene.kubectl(
        "create", "rolebinding", "looks", "-n", TEAM, "--clusterrole=view", f"--serviceaccount={TEAM}:default"
    )
    token = "Bearer " + scene.kubectl("create", "token", "default", "-n", TEAM).strip()
    command = ["kubectl", "--namespace", SYSTEM, "port-forward", "service/internlm2-operator-ui", ":80"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as forward:
        assert forward.stdout is not None
        try:
            url = "http://" + forward.stdout.readline().split()[2]  # Forwarding from 127.0.0.1:PORT -> ...
            listed = wait_for(lambda: get(url, f"/?namespace={TEAM}", token), what="the table of jobs")
            assert (listed.code, JOB in listed.text) == (200, True)
            assert [get(url, path, token).code for path in ("/", "/nodes")] == [403, 403]
            assert get(url, f"/?namespace={TEAM}").code == 401
        finally:
            forward.terminate()


def test_install_to_first_step_then_upgrade_rollback_and_uninstall_leave_it_alone(bare: World) -> None:
    newcomer.install()
    newcomer.apply_job()
    with JobWatch(JOB, TEAM) as watch:
        all_run(watch)
        assert "Phase:          Succeeded" in scene.helm("test", *WHERE)

        with untouched(watch, "upgrade"):
            scene.helm("upgrade", *WHERE, str(scene.CHART), *WAITING, *scene.values(), "--set", "ui.enabled=true")
        pages_show_to_each_what_he_may_see()
        with untouched(watch, "rollback"):
            scene.helm("rollback", scene.RELEASE, "1", "--namespace", SYSTEM, *WAITING)
        with untouched(watch, "uninstall"):
            scene.helm("uninstall", *WHERE, *WAITING)
            assert scene.kubectl("get", "deployments", "-n", SYSTEM, "-o", "name") == ""
        with untouched(watch, "install beside a job that runs"):
            newcomer.install("--set", "crds.keep=false")
        kill_a_process(bare, watch)

        # Without keep the jobs end with the release, though no operator is left to help them go.
        scene.helm("uninstall", *WHERE, *WAITING)
        wait_for(lambda: not pods(), seconds=150, what="the end of all pods")
        assert scene.kubectl("get", "crd", DEFINITION, "--ignore-not-found", "-o", "name") == ""


def test_chart_before_becomes_this_one_and_back_under_a_job(bare: World) -> None:
    """No image of chart 0.1 is left: today's operator runs by it, with rights that 0.1 does not give."""
    scene.helm("install", *WHERE, str(PREVIOUS), "--create-namespace", *scene.values())
    scene.apply(rights_of_today(operator_account(SYSTEM)))
    try:
        wait_for(lambda: DEFINITION in scene.kubectl("get", "crd", "-o", "name"), what="the definition of chart 0.1")
        newcomer.apply_job()
        with JobWatch(JOB, TEAM) as watch:
            all_run(watch)
            with untouched(watch, "upgrade"):
                upgrade()
            with untouched(watch, "rollback"):
                scene.helm("rollback", scene.RELEASE, "1", "--namespace", SYSTEM, *WAITING)
            with untouched(watch, "upgrade after it"):
                upgrade()
            scene.kubectl("delete", "clusterrolebinding", BINDING)
            kill_a_process(bare, watch)
    finally:
        scene.kubectl("delete", "clusterrolebinding", BINDING, "--ignore-not-found")


def upgrade() -> None:
    scene.helm("upgrade", *WHERE, str(scene.CHART), *WAITING, "--take-ownership", "--reset-then-reuse-values")


def rights_of_today(account: str) -> dict[str, Any]:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": BINDING},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": SYSTEM}],
    }
