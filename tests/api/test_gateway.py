"""Writes of the gateway that depend on what somebody else did meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import pytest
from kubernetes.aio import client, config

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import JOBS, Gateway, Object, unobserved
from tests.api.apiserver import ApiServer
from tests.api.jobs import job
from tests.api.rest import Rest

pytestmark = pytest.mark.api

PATH: Final = f"{JOBS}/namespaces/default/internlm2jobs"


def ask(kubeconfig: Path, question: Callable[[Gateway], Awaitable[Any]]) -> Any:
    """Return the answer of a gateway that lives as long as the question."""

    async def asked() -> Any:
        settings = client.Configuration()
        # The loader carries no annotations in this client.
        await config.load_kube_config(str(kubeconfig), client_configuration=settings)  # type: ignore[no-untyped-call]
        async with Gateway(client.ApiClient(configuration=settings), unobserved) as gateway:
            return await question(gateway)

    return asyncio.run(asked())


@pytest.fixture
def edited(api: ApiServer, request: pytest.FixtureRequest) -> tuple[Object, Object]:
    """A job as it was made, and as it is after an edit."""
    rest, name = Rest(api), request.node.name.replace("_", "-")[:63].rstrip("-")
    made = rest("POST", PATH, job({"metadata.name": name}))
    return made, rest.merge(f"{PATH}/{name}", {"spec": {"nodes": {"spares": 1}}})


def meta(body: Object) -> dict[str, str]:
    return {
        "name": body["metadata"]["name"],
        "uid": body["metadata"]["uid"],
        "version": body["metadata"]["resourceVersion"],
    }


def test_a_status_is_not_written_for_a_spec_that_was_edited(kubeconfig: Path, edited: tuple[Object, Object]) -> None:
    status: Object = {"phase": "Starting", "attempt": 1, "size": 2}
    made, now = edited
    with pytest.raises(errors.Conflict):
        ask(kubeconfig, lambda gateway: gateway.write_status("default", **meta(made), status=status))
    written = ask(kubeconfig, lambda gateway: gateway.write_status("default", **meta(now), status=status))
    assert written["status"]["size"] == 2


def test_a_job_that_was_edited_is_not_deleted(kubeconfig: Path, edited: tuple[Object, Object]) -> None:
    made, now = edited
    with pytest.raises(errors.Conflict):
        ask(kubeconfig, lambda gateway: gateway.delete_job("default", **meta(made)))
    for _ in range(2):  # what is gone already is success
        ask(kubeconfig, lambda gateway: gateway.delete_job("default", **meta(now)))
    with pytest.raises(errors.NotFound):
        ask(kubeconfig, lambda gateway: gateway.job("default", now["metadata"]["name"]))


def test_an_event_of_the_same_name_is_counted(kubeconfig: Path, api: ApiServer) -> None:
    about: Object = {"apiVersion": "v1", "kind": "Pod", "name": "p", "namespace": "default"}
    times = [f"2026-01-02T03:04:0{second}Z" for second in range(3)]
    for time in times:
        event: Object = {"metadata": {"name": "p.1", "namespace": "default"}, "involvedObject": about, "reason": "Said"}
        event |= {"message": "m", "type": "Normal", "count": 1, "firstTimestamp": time, "lastTimestamp": time}
        ask(kubeconfig, lambda gateway, event=event: gateway.record_event(event))  # type: ignore[misc]
    kept = Rest(api)("GET", "/api/v1/namespaces/default/events/p.1")
    assert (kept["count"], kept["firstTimestamp"], kept["lastTimestamp"]) == (3, times[0], times[2])
