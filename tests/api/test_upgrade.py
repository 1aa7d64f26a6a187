"""The packaged chart of the version before becomes this one, goes back, and is taken away, while a job trains.

No controller runs here: what the Deployment would start is started by the test. With helm 3 and with helm 4.
"""

import contextlib
import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.api.apiserver import ApiServer, wait_for
from tests.api.helm import CHART, NAMESPACE, PREVIOUS, Helm
from tests.api.rest import JOBS, Object, Rest
from tests.api.stage import ACCOUNT, OperatorProcess, Stage
from tests.servers import S3Server

pytestmark = pytest.mark.api

CRD: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/internlm2jobs.training.internlm.io"
WHERE: Final = ("internlm2", "--namespace", NAMESPACE, "--timeout", "60s")
KEYS: Final = ("uid", "resourceVersion", "generation")


@pytest.fixture(scope="module", params=["helm3", "helm"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of its own that knows no InternLM2Job."""
    server = ApiServer(tmp_path_factory.mktemp(f"apiserver-{request.param}"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def helm(api: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Helm:
    name = "helm3" if "helm3" in api.folder.name else "helm"
    return Helm(tmp_path_factory.mktemp("home"), name, api.kubeconfig)


def served(rest: Rest) -> bool:
    """Say whether jobs can be made; while their storage is set up the API server answers 429."""
    with contextlib.suppress(urllib.error.HTTPError):
        return rest.maybe(f"{JOBS}/internlm2jobs?dryRun=All") is not None
    return False


def versions(stage: Stage) -> dict[str, tuple[Any, ...]]:
    """Return who the job's pods are and which version of them there is."""
    return {name: tuple(pod["metadata"].get(key) for key in KEYS) for name, pod in stage.pods().items()}


def account(api: ApiServer, folder: Path) -> Path:
    """Return a kubeconfig with the rights that the release gives to the operator."""
    token = api.kubectl("create", "token", ACCOUNT, "--namespace", NAMESPACE, "--duration", "2h").stdout.strip()
    return api.bearing(token, folder / "release.kubeconfig")


def serve(kubeconfig: Path, folder: Path, stage: Stage) -> Iterator[OperatorProcess]:
    """Run an operator until it has looked at everything; the next one is the same pod, which holds the lease."""
    operator = OperatorProcess(kubeconfig, folder, namespace=NAMESPACE, identity="the-only-one")
    operator.start()
    try:
        yield operator
        rounds = 'internlm2_operator_source_rounds_total{source="checkpoints"}'
        seen = operator.metric(rounds)
        wait_for(lambda: operator.metric(rounds) > seen, what=f"looks at {stage.name}")
    finally:
        operator.kill()


def test_a_job_trains_through_upgrade_rollback_and_uninstall(
    api: ApiServer, helm: Helm, store: S3Server, tmp_path: Path
) -> None:
    rest = Rest(api)
    helm.run("install", *WHERE, "--create-namespace", str(PREVIOUS))
    wait_for(lambda: served(rest), what="the definition of chart N-1")
    stage = Stage(rest, store, "training")  # nothing is cleaned: the server goes, and its definition of jobs before
    stage.make_secret()
    stage.put("corpus/index.json")
    stage.make_nodes("a", "b")
    stage.make_job()
    # The rights of N-1 are not those that the operator of today needs: it begins with the admin's.
    for _ in serve(api.kubeconfig, tmp_path, stage):
        stage.wait_for_pods(2)
        stage.run_pods()
        wait_for(lambda: stage.status().get("attempt") == 1, what="the first attempt")
    pods, job = versions(stage), stage.job()

    # Chart 0.1 left its CRD to nobody: helm takes it up only when told to.
    done = helm("upgrade", *WHERE, str(CHART))
    assert (done.returncode, "internlm2jobs.training.internlm.io" in done.stderr) == (1, True)
    # Values of 0.1 alone lack what is new, and that is said.
    done = helm("upgrade", *WHERE, str(CHART), "--take-ownership", "--reuse-values")
    assert (done.returncode, "crds" in done.stderr) == (1, True)
    helm.run("upgrade", *WHERE, str(CHART), "--take-ownership", "--reset-then-reuse-values")
    assert "hostPath" not in json.dumps(rest("GET", CRD)["spec"])
    assert (stage.job()["metadata"]["resourceVersion"], kept(stage.job())) == (
        job["metadata"]["resourceVersion"],
        kept(job),
    )
    for operator in serve(account(api, tmp_path), tmp_path, stage):
        assert operator.alive()
    assert versions(stage) == pods
    assert kept(stage.job()) == kept(job)

    helm.run("rollback", "internlm2", "1", "--namespace", NAMESPACE)
    assert (versions(stage), kept(stage.job())) == (pods, kept(job))
    helm.run("upgrade", *WHERE, str(CHART))

    helm.run("uninstall", *WHERE)
    assert rest.items(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments") == []
    assert (versions(stage), kept(stage.job())) == (pods, kept(job))

    # Its namesake takes over what was kept; without keep the jobs go with their definition.
    helm.run("install", *WHERE, str(CHART), "--set", "crds.keep=false")
    assert kept(stage.job()) == kept(job)
    helm.run("uninstall", *WHERE)
    wait_for(lambda: rest.maybe(CRD) is None, what="the end of the definition and all jobs")
    owners = [pod["metadata"]["ownerReferences"][0]["uid"] for pod in stage.pods().values()]
    assert owners == [job["metadata"]["uid"]] * 2  # for the garbage collector, which ends their pods
    left = [body["metadata"]["name"] for body in rest.items("/apis/rbac.authorization.k8s.io/v1/clusterroles")]
    assert [name for name in left if "internlm2" in name] == []


def kept(job: Object) -> Object:
    """Return what of a job no release may change: all but the newest figures of its status."""
    status = job["status"]
    meta = {key: job["metadata"][key] for key in ("uid", "generation", "creationTimestamp")}
    return {"meta": meta, "spec": job["spec"]} | {key: status[key] for key in ("attempt", "size", "restarts")}
