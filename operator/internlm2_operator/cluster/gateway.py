"""The only user of the Kubernetes client: requests in, plain objects out, errors typed by `errors`.

Bodies are dictionaries from `manifests`; the client's pydantic models are not used, because decoding
a large LIST into them costs more than everything else the operator does.
"""

import json
import os
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from internlm2_operator.cluster import errors
from internlm2_spec import contract
from internlm2_spec.config import Refused

FIELD_MANAGER: Final = "internlm2-operator"
JOBS: Final = f"/apis/{contract.API_GROUP}/{contract.API_VERSION}"
PAGE: Final = 500
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)
POOL: Final = 64

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind as they were at resourceVersion `version`."""

    items: list[Object]
    version: int


Observe = Callable[[str, int], None]
"""Called with method and HTTP status of every answer; status 0 means that none came."""


def unobserved(_method: str, _code: int) -> None:
    """Count nothing: for callers that have no metrics."""


_APPLY = "application/apply-patch+yaml"
_STRATEGIC = "application/strategic-merge-patch+json"
_PATHS: Final = {"Service": "services", "ConfigMap": "configmaps"}


async def credentials() -> client.Configuration:
    """Return how to reach the cluster this process runs in, else the one of the kubeconfig's current context.

    Raises:
        Refused: there is neither.
    """
    settings = client.Configuration()
    # Nothing in the client's configuration and transport is annotated: hence the ignores in this file.
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(client_configuration=settings)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise Refused(
            "KUBECONFIG", wrong=str(error), right="set KUBECONFIG to a file with a current context"
        ) from error
    settings.connection_pool_maxsize = POOL
    return settings


async def connect(observe: Observe) -> "Gateway":
    """Return a gateway with the credentials above."""
    return Gateway(client.ApiClient(configuration=await credentials()), observe)


class Gateway:
    """Calls to the API server. Every method is idempotent and raises only `errors.ClusterError`."""

    def __init__(self, api: client.ApiClient, observe: Observe) -> None:
        self._api = api
        self._observe = observe

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()  # type: ignore[no-untyped-call]

    # Reading

    async def pages(self, path: str, query: Sequence[tuple[str, str]] = ()) -> AsyncIterator[Object]:
        """Yield a LIST in chunks, so that ten thousand pods are never one document in memory."""
        token = ""
        while True:
            more = [("limit", str(PAGE))] + ([("continue", token)] if token else [])
            page = await self.call("GET", path, query=[*query, *more])
            yield page
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return

    async def jobs(self, namespace: str = "") -> Listing:
        return await self._list(_scoped(JOBS, namespace, contract.PLURAL))

    async def nodes(self) -> Listing:
        return await self._list("/api/v1/nodes")

    async def job_pods(self, namespace: str = "") -> Listing:
        """Pods that carry our job label."""
        return await self._list(_scoped("/api/v1", namespace, "pods"), [("labelSelector", contract.LABEL_JOB)])

    def foreign_pods(self) -> AsyncIterator[Object]:
        """Pages of pods of everybody else that hold resources of a node; finished ones are left out by the server."""
        query = [
            ("labelSelector", f"!{contract.LABEL_JOB}"),
            ("fieldSelector", "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"),
        ]
        return self.pages("/api/v1/pods", query)

    async def _list(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Listing:
        items: list[Object] = []
        version = 0
        async for page in self.pages(path, query):
            items += page.get("items") or []
            version = int(page["metadata"]["resourceVersion"])
        return Listing(items, version)

    async def job(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}")

    async def node(self, name: str) -> Object:
        return await self.call("GET", f"/api/v1/nodes/{name}")

    async def pod(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def secret(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")

    # Writing

    async def apply(self, body: Object) -> Object:
        """Server-side apply a Service or a ConfigMap; our fields win, other managers keep theirs."""
        meta = body["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/{_PATHS[body['kind']]}/{meta['name']}"
        return await self.call("PATCH", path, query=_FORCED, body=body, content_type=_APPLY)

    async def create_pod(self, body: Object) -> Object:
        """Create a pod, or return the one that is there when it has the same owner.

        Raises:
            Conflict: a namesake belongs to somebody else, for example to a job of the same name that
                was deleted a moment ago and whose pods are still going.
        """
        meta = body["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods"
        try:
            return await self.call("POST", path, query=_MANAGED, body=body)
        except errors.AlreadyExists:
            there = await self.pod(meta["namespace"], meta["name"])
        if _owners(there) != _owners(body):
            raise errors.Conflict(f"pod {meta['namespace']}/{meta['name']} exists and is not ours")
        return there

    async def delete_pod(
        self, namespace: str, name: str, *, uid: str, grace_seconds: int | None, force: bool
    ) -> Object | None:
        """Delete the pod with this uid; returns it while it is still stopping, None once it is gone.

        `force` removes the object at once: its node is dead and will not confirm. A pod that is gone
        already, or whose name another one has now, is success.
        """
        options: Object = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        grace = 0 if force else grace_seconds
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            answer = await self.call("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}", body=options)
        except (errors.NotFound, errors.Conflict):
            return None
        return None if force or answer.get("kind") != "Pod" else answer

    async def patch_node(self, name: str, patch: Object) -> Object:
        """Merge `patch` strategically into a node: taints merge by key, so those of others stay."""
        return await self.call("PATCH", f"/api/v1/nodes/{name}", query=_MANAGED, body=patch, content_type=_STRATEGIC)

    async def write_status(self, namespace: str, name: str, *, uid: str, status: Object) -> Object:
        """Apply the whole status: fields left out now but written before are removed.

        Raises:
            Conflict: `uid` is not the job's any more: it was deleted and made anew.
        """
        path = f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}"
        meta = {"namespace": namespace, "name": name, "uid": uid}
        kind = {"apiVersion": f"{contract.API_GROUP}/{contract.API_VERSION}", "kind": contract.KIND}
        body = kind | {"metadata": meta, "status": status}
        return await self.call("PATCH", f"{path}/status", query=_FORCED, body=body, content_type=_APPLY)

    async def create_event(self, body: Object) -> None:
        """Create an Event; its name is derived from its content, so a second one is the same one."""
        try:
            await self.call("POST", f"/api/v1/namespaces/{body['metadata']['namespace']}/events", body=body)
        except errors.AlreadyExists:
            return

    async def lease(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"{_LEASES}/{namespace}/leases/{name}")

    async def create_lease(self, body: Object) -> Object:
        return await self.call("POST", f"{_LEASES}/{body['metadata']['namespace']}/leases", body=body)

    async def update_lease(self, body: Object) -> Object:
        """Replace a lease; the resourceVersion inside makes it compare-and-swap."""
        meta = body["metadata"]
        return await self.call("PUT", f"{_LEASES}/{meta['namespace']}/leases/{meta['name']}", body=body)

    # Wire

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send one request and return the decoded answer."""
        headers = {"Accept": "application/json", "Content-Type": content_type}
        try:
            prepared = await self._api.param_serialize(
                method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = await self._api.call_api(*prepared, _request_timeout=TIMEOUT)
            text = await answer.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._observe(method, 0)
            raise errors.Retry(f"{method} {path}: {type(error).__name__}: {error}") from error
        self._observe(method, answer.status)
        return _decoded(answer.status, text)


_FORCED: Final = (("fieldManager", FIELD_MANAGER), ("force", "true"))
_MANAGED: Final = (("fieldManager", FIELD_MANAGER),)
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces"


def _decoded(code: int, text: bytes) -> Object:
    try:
        parsed: Object = json.loads(text)
    except ValueError:
        # A proxy or a starting API server answers in plain text.
        parsed = {"message": text.decode(errors="replace")}
    if not 200 <= code <= 299:
        raise errors.from_status(code, parsed)
    return parsed


def _scoped(root: str, namespace: str, plural: str) -> str:
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _owners(body: Object) -> set[str]:
    return {owner["uid"] for owner in body["metadata"].get("ownerReferences", ())}
