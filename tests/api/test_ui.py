"""`internlm2 ui` against a real API server: whose rights decide what a page shows."""

import asyncio
import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
import yaml

from internlm2_operator.api.status import Fault, FaultTimes, JobStatus, Phase
from internlm2_operator.health.node import FaultNote
from internlm2_spec import contract
from lab import screens
from lab.browser import browser, can_browse
from lab.settings import LabError
from tests.api.apiserver import TOKEN, ApiServer, free_ports, wait_for
from tests.api.jobs import job
from tests.api.rest import JOBS, Rest
from tests.api.tenant import make_tenant
from tests.api.ui import Reply, get, pages
from tests.unit.cli.ui.structure import wrong
from tests.unit.plan.world import T0, after

pytestmark = pytest.mark.api

HOME: Final = "ui-a"
OTHER: Final = "ui-b"
LEMON: Final = "ui-lemon"
EVIDENCE: Final = "XID 79 <script>alert(1)</script> & more"
FAULT: Final = Fault(
    id="f1", cause="Xid79", node=LEMON, evidence=(EVIDENCE,), verdict="node", action="cordoned",
    times=FaultTimes(signal=T0, verdict=after(1), cordon=after(2), closed=after(40)),
)  # fmt: skip
VIEW, NODES = "ui-view-jobs", "ui-view-nodes"


@pytest.fixture(scope="module")
def world(api: ApiServer) -> Iterator[ApiServer]:
    """A job with a fault in each of two namespaces, on a node that is cordoned."""
    rest = Rest(api)
    for namespace in (HOME, OTHER):
        rest("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        path = f"{JOBS}/namespaces/{namespace}/internlm2jobs"
        rest("POST", path, job({"metadata.name": f"of-{namespace}", "metadata.namespace": namespace}))
        status = JobStatus(phase=Phase.RUNNING, stage="pretrain", attempt=1, faults=(FAULT,)).to_object()
        rest.merge(f"{path}/of-{namespace}/status", {"status": status})
    note = FaultNote("Xid79", (EVIDENCE,), T0, T0, T0, by="internlm2-operator", rule="one signal that proves it")
    meta = {"name": LEMON, "annotations": {contract.ANNOTATION_FAULT: note.to_json()}}
    rest("POST", "/api/v1/nodes", {"metadata": meta, "spec": {"unschedulable": True}})
    api.kubectl("create", "clusterrole", VIEW, "--verb=get,list", "--resource=internlm2jobs.training.internlm.io")
    api.kubectl("create", "clusterrole", NODES, "--verb=get,list", "--resource=nodes")
    try:
        yield api
    finally:
        for namespace in (HOME, OTHER):  # no controller empties a namespace here
            rest("DELETE", f"{JOBS}/namespaces/{namespace}/internlm2jobs/of-{namespace}")
        rest("DELETE", f"/api/v1/nodes/{LEMON}")


def token(api: ApiServer, account: str) -> str:
    return api.kubectl("create", "token", account, "-n", HOME).stdout.strip()


@pytest.fixture(scope="module")
def tenant(world: ApiServer) -> str:
    """The token of who may look at the jobs of one namespace."""
    make_tenant(world, HOME, account="looker", roles=(VIEW,))
    return token(world, "looker")


@pytest.fixture(scope="module")
def warden(world: ApiServer) -> str:
    """The token of who may look at nodes, and at the jobs of one namespace."""
    make_tenant(world, HOME, account="warden", roles=(VIEW,))
    world.kubectl("create", "clusterrolebinding", NODES, f"--clusterrole={NODES}", f"--serviceaccount={HOME}:warden")
    return token(world, "warden")


@pytest.fixture(scope="module")
def shared(world: ApiServer) -> Iterator[str]:
    """The program as a cluster serves it. It is started by an admin, whose rights it must never use."""
    with pages(world.kubeconfig, "--shared", port=free_ports(1)[0]) as url:
        yield url.rstrip("/")


def test_a_tenant_sees_the_jobs_of_his_namespace(shared: str, tenant: str) -> None:
    listed = get(shared, f"/?namespace={HOME}", f"Bearer {tenant}")
    assert (listed.code, wrong(listed.text)) == (200, [])
    assert f"jobs/{HOME}/of-{HOME}" in [a["href"].removeprefix("./") for a in listed.page.all("a")]
    shown = get(shared, f"/jobs/{HOME}/of-{HOME}", f"Bearer {tenant}")
    assert (shown.code, wrong(shown.text)) == (200, [])
    assert shown.page.texts("h1") == [f"Job {HOME}/of-{HOME}"]


def test_evidence_is_text_from_the_api_server_to_the_page(shared: str, tenant: str) -> None:
    shown = get(shared, f"/jobs/{HOME}/of-{HOME}/faults/f1", f"Bearer {tenant}")
    assert (shown.code, wrong(shown.text)) == (200, [])
    assert EVIDENCE in shown.page.texts("code")
    assert "<script" not in shown.text


CLOSED_TO_A_TENANT = {
    "all namespaces": "/",
    "another namespace": f"/?namespace={OTHER}",
    "a job of another namespace": f"/jobs/{OTHER}/of-{OTHER}",
    "a fault of another namespace": f"/jobs/{OTHER}/of-{OTHER}/faults/f1",
    "nodes": "/nodes",
    "a node that is cordoned": f"/nodes/{LEMON}",
}


@pytest.mark.parametrize("path", CLOSED_TO_A_TENANT.values(), ids=CLOSED_TO_A_TENANT)
def test_a_tenant_may_not_see(path: str, shared: str, tenant: str) -> None:
    """The control is the admin, for whom the same page has what the tenant must not read."""
    refused = get(shared, path, f"Bearer {tenant}")
    assert (refused.code, wrong(refused.text)) == (403, [])
    assert refused.page.texts("h1") == ["You may not see this"]
    secrets = [one for one in (f"of-{OTHER}", "Xid79", "XID 79", "one signal that proves it") if one not in path]
    assert [secret for secret in secrets if secret in refused.text] == []
    seen = get(shared, path, f"Bearer {TOKEN}")
    assert seen.code == 200
    assert [secret for secret in secrets if secret in seen.text] != []


@pytest.mark.parametrize(
    "path", [f"/jobs/{HOME}%2f..%2f{OTHER}/of-{OTHER}", f"/jobs/{HOME}/..%2f..%2f..", f"/?namespace={HOME}/../{OTHER}",
             "/nodes/..%2fnamespaces", "/jobs/a"],
)  # fmt: skip
def test_what_is_no_name_is_not_asked_for(path: str, shared: str) -> None:
    assert get(shared, path, f"Bearer {TOKEN}").code == 404


def test_who_may_read_nodes_sees_their_cordons_and_not_whose_jobs_they_hit(shared: str, warden: str) -> None:
    listed, shown = (get(shared, path, f"Bearer {warden}") for path in ("/nodes", f"/nodes/{LEMON}"))
    assert (listed.code, shown.code, wrong(listed.text), wrong(shown.text)) == (200, 200, [], [])
    assert f"nodes/{LEMON}" in [a["href"].removeprefix("./") for a in listed.page.all("a")]
    assert f"evidence: {EVIDENCE}" in shown.page.text
    assert f"of-{OTHER}" not in shown.text
    assert f"of-{OTHER}" in get(shared, f"/nodes/{LEMON}", f"Bearer {TOKEN}").text


@pytest.mark.parametrize("authorization", ["", "Bearer nobody-has-this", "Bearer a b", "Basic !"])
def test_nobody_sees_anything(authorization: str, shared: str) -> None:
    for path in ("/", "/nodes", f"/jobs/{HOME}/of-{HOME}"):
        refused = get(shared, path, authorization)
        assert (refused.code, wrong(refused.text)) == (401, [])
        assert "kubectl create token" in refused.page.text
        assert f"of-{HOME}" not in refused.text.replace(path, "")


def test_a_browser_sends_the_token_as_a_password(shared: str, tenant: str) -> None:
    typed = "Basic " + base64.b64encode(f"me:{tenant}".encode()).decode()
    assert get(shared, f"/?namespace={HOME}", typed).code == 200


def test_a_kubelet_asks_without_a_token(shared: str) -> None:
    assert get(shared, "/healthz") == Reply(200, "ok")


# Alone


def test_alone_it_has_the_rights_of_the_kubeconfig_and_begins_where_one_may_look(
    api: ApiServer, tenant: str, tmp_path: Path
) -> None:
    with pages(api.bearing(tenant, tmp_path / "tenant"), "-n", HOME) as url:
        first = get(url, "")
        assert (first.code, wrong(first.text)) == (200, [])
        assert "You may not list the jobs of all namespaces." in first.page.text
        assert f"of-{HOME}" in first.text
        assert [get(url, path).code for path in ("nodes", f"jobs/{OTHER}/of-{OTHER}")] == [403, 403]


def test_alone_only_the_loopback_is_listened_on_and_the_address_is_a_secret(world: ApiServer) -> None:
    with pages(world.kubeconfig) as url:
        scheme, _, host, secret, _ = url.split("/")
        assert (scheme, host.startswith("127.0.0.1:")) == ("http:", True)
        assert len(secret) >= 20
        assert get(url, "").code == 200
        assert [get(f"http://{host}", path).code for path in ("/", "/nodes", f"/{secret[:-1]}x/")] == [404, 404, 404]
        port = int(host.rpartition(":")[2])
        # 127.0.0.2 is this machine too: a socket on all addresses would answer there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port), timeout=10).close()


def test_a_port_that_is_taken_is_one_line_and_2(api: ApiServer) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        argv = [sys.executable, "-m", "internlm2_operator.cli", "ui", "--port", port]
        env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        done = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            env=env | {"KUBECONFIG": str(api.kubeconfig)},
            timeout=120,
            check=False,
        )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"--port: {port}: Address already in use")
    assert done.stderr.count("\n") == 1


def test_an_api_server_that_is_away_is_a_page_and_not_a_traceback(api: ApiServer, tmp_path: Path) -> None:
    config = yaml.safe_load(api.kubeconfig.read_text())
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{nobody.getsockname()[1]}"
        path = tmp_path / "away"
        path.write_text(yaml.safe_dump(config))
        with pages(path) as url:
            reply = wait_for(lambda: get(url, ""), what="an answer")
    assert (reply.code, reply.page.texts("h1")) == (503, ["The API server does not answer"])


@pytest.mark.parametrize(
    ("flags", "said"),
    [((), "prometheus: ClientConnectorError: "), (("--shared",), "Prometheus does not answer.")],
    ids=["alone", "shared"],
)
def test_a_prometheus_that_is_away_takes_nothing_else_from_a_page(
    flags: tuple[str, ...], said: str, world: ApiServer
) -> None:
    """Others are not told where it is."""
    port, nobody = free_ports(2)
    nowhere = f"127.0.0.1:{nobody}"
    with pages(world.kubeconfig, *flags, f"--prometheus-url=http://{nowhere}", port=port) as url:
        shown = get(url, f"jobs/{HOME}/of-{HOME}", f"Bearer {TOKEN}")
    assert (shown.code, wrong(shown.text)) == (200, [])
    assert [text for text in shown.page.texts("p") if text.startswith(said)]
    assert (nowhere.replace(":", "") in shown.text.replace(":", "")) is not bool(flags)


# In a browser


async def seen(url: str, paths: Sequence[str], authorization: str) -> dict[str, list[str]]:
    """Return what axe-core, the console and the content policy have to say about pages, in light and in dark."""
    said = {}
    async with browser() as chromium:
        for scheme in ("light", "dark"):
            await chromium.look(scheme=scheme, width=1280, height=900, headers={"Authorization": authorization})
            for path in paths:
                await chromium.open(url + path)
                said[f"{scheme} {path}"] = [*await chromium.findings(), *chromium.errors]
    return said


@pytest.mark.skipif(not can_browse(), reason="Chromium is not there, and only root can install it")
def test_a_checker_in_a_real_browser_finds_nothing(shared: str) -> None:
    paths = ["/", f"/jobs/{HOME}/of-{HOME}", f"/jobs/{HOME}/of-{HOME}/faults/f1", "/nodes", f"/nodes/{LEMON}"]
    said = asyncio.run(seen(shared, paths, f"Bearer {TOKEN}"))
    assert len(said) == 2 * len(paths)
    assert {page: found for page, found in said.items() if found} == {}


@pytest.mark.skipif(not can_browse(), reason="Chromium is not there, and only root can install it")
def test_the_checker_in_a_browser_finds_what_is_spoilt_and_the_first_key_skips_to_the_content(shared: str) -> None:
    async def look() -> tuple[list[str], str, str]:
        async with browser() as chromium:
            await chromium.look(scheme="light", width=400, height=800, headers={"Authorization": f"Bearer {TOKEN}"})
            await chromium.open(shared)
            await chromium.press("Tab", 9)
            first = await chromium.value("document.activeElement.textContent")
            await chromium.press("Enter", 13)
            await chromium.value("document.querySelector('label').remove()")
            return await chromium.findings(), first, await chromium.value("location.hash")

    found, first, place = asyncio.run(look())
    assert [line.split(":")[0] for line in found] == ["critical label"]
    assert (first, place) == ("Skip to the content", "#content")


@pytest.mark.skipif(not can_browse(), reason="Chromium is not there, and only root can install it")
def test_pictures_for_the_docs_follow_the_links_of_a_job(world: ApiServer) -> None:
    async def taken(url: str, job: str) -> dict[str, bytes]:
        return {name: await chromium.picture() async for name, chromium in screens.walk(url, job)}

    with pages(world.kubeconfig) as url:
        found = asyncio.run(taken(url, f"{HOME}/of-{HOME}"))
        with pytest.raises(LabError, match="job: no link leads there"):
            asyncio.run(taken(url, "nobody/no-job"))
    assert [*found] == ["jobs", "job", "fault", "node"]
    assert {picture[:8] for picture in found.values()} == {b"\x89PNG\r\n\x1a\n"}
    assert len({*found.values()}) == 4
