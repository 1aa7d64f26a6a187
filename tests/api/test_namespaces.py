"""An operator that is given some namespaces has rights there and nowhere else, and serves each by itself."""

from collections.abc import Iterator
from typing import Final

import pytest

from tests.api.apiserver import ApiServer, wait_for
from tests.api.rest import Rest
from tests.api.stage import ACCOUNT, OperatorProcess, Stage, install_rights, on_stage, operating
from tests.servers import S3Server

pytestmark = pytest.mark.api

SYSTEM: Final = "internlm2-bounded"
OURS: Final = ("bounded-a", "bounded-b")
SUBJECT: Final = f"--as=system:serviceaccount:{SYSTEM}:{ACCOUNT}"
BINDING: Final = f"{SYSTEM}-internlm2-operator-jobs"


@pytest.fixture(scope="module")
def stages(rest: Rest, store: S3Server) -> Iterator[dict[str, Stage]]:
    """Two namespaces of the operator and one of nobody."""
    with (
        on_stage(rest, store, OURS[0]) as a,
        on_stage(rest, store, OURS[1]) as b,
        on_stage(rest, store, "unbounded") as c,
    ):
        for stage in (a, b, c):
            stage.make_nodes("1", "2")
        yield {stage.name: stage for stage in (a, b, c)}


@pytest.fixture(scope="module")
def process(
    api: ApiServer, stages: dict[str, Stage], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    folder = tmp_path_factory.mktemp("operator")
    names = ",".join(stages[name].name for name in OURS)
    rights = install_rights(api, folder, f"--set=namespaces={{{names}}}", system=SYSTEM)
    with operating(rights, folder, f"--namespaces={names}", namespace=SYSTEM) as operator:
        yield operator


RIGHTS: Final = {
    "get secrets -n bounded-a": "yes",
    "create pods -n bounded-b": "yes",
    "patch nodes": "yes",
    "list pods --all-namespaces": "yes",
    f"create pods -n {SYSTEM}": "yes",
    f"get secrets -n {SYSTEM}": "no",
    "get secrets -n unbounded": "no",
    "create pods -n unbounded": "no",
    "delete pods -n unbounded": "no",
    "patch configmaps -n unbounded": "no",
    "list internlm2jobs.training.internlm.io -n unbounded": "no",
    "list internlm2jobs.training.internlm.io --all-namespaces": "no",
    "get secrets --all-namespaces": "no",
}


@pytest.mark.parametrize("right", RIGHTS)
def test_right(right: str, api: ApiServer, process: OperatorProcess) -> None:
    assert process.alive()
    done = api.kubectl("auth", "can-i", *right.split(), SUBJECT, check=False)
    assert done.stdout.strip() == RIGHTS[right]


def test_each_namespace_is_served_and_no_other(process: OperatorProcess, stages: dict[str, Stage]) -> None:
    """And one whose administrator takes our rights away costs the others nothing, not even over a restart."""
    last, (a, b) = stages["unbounded"], (stages[name] for name in OURS)
    last.make_job()
    for stage in (a, b):
        stage.make_job()
        stage.wait_for_pods(2)
    assert (last.pods(), last.job().get("status")) == ({}, None)

    binding = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{b.name}/rolebindings/{BINDING}"
    taken = a.rest("GET", binding)
    a.rest("DELETE", binding)
    process.kill()
    process.start()
    a.rest("DELETE", f"{a.path}/job")
    wait_for(lambda: gone(a), what="pods of the job that is gone")
    a.make_job(name="second")
    a.wait_for_pods(2)
    assert process.alive()

    taken["metadata"] = {"name": BINDING}
    a.rest("POST", binding.rpartition("/")[0], taken)
    assert len(b.pods()) == 2
    b.edit(suspend=True)
    wait_for(lambda: not b.pods(), what="the suspension of the other")
    assert "left out" in process.log.read_text()


def gone(stage: Stage) -> bool:
    """Do what the garbage collector would, which does not run here."""
    for name in stage.pods():
        stage.rest("DELETE", f"/api/v1/namespaces/{stage.name}/pods/{name}", {"gracePeriodSeconds": 0})
    return not stage.pods()
