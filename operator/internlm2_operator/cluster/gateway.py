"""The only user of the Kubernetes client: requests in, plain objects out, errors typed by `errors`.

Bodies are dictionaries from `manifests`; the client's pydantic models are not used, because decoding
a large LIST into them costs more than everything else the operator does.
"""

import asyncio
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config
from kubernetes.aio.client import rest

from internlm2_operator.cluster import errors
from internlm2_spec import contract
from internlm2_spec.config import Refused

FIELD_MANAGER: Final = "internlm2-operator"
JOBS: Final = f"/apis/{contract.API_GROUP}/{contract.API_VERSION}"
PAGE: Final = 500
TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=10)
POOL: Final = 64
# Bookmarks come every minute: a stream that is silent for longer is dead.
STREAM: Final = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=90)
BREATH: Final = 50
"""Objects that are taken in one go before others get their turn."""
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_ENDLESS: Final = aiohttp.ClientTimeout(total=None, sock_connect=10)

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Census:
    """Which objects of a kind there were at resourceVersion `version`, by uid."""

    uids: frozenset[str]
    version: int


@dataclass(frozen=True, slots=True)
class Kind:
    """What a LIST and a WATCH ask for."""

    path: str
    query: tuple[tuple[str, str], ...] = ()


def jobs_of(namespace: str) -> Kind:
    """Return the jobs of a namespace, or of all when it is empty."""
    return Kind(_scoped(JOBS, namespace, contract.PLURAL))


def pods_of(namespace: str) -> Kind:
    """Return the pods that carry our job label."""
    return Kind(_scoped("/api/v1", namespace, "pods"), (("labelSelector", contract.LABEL_JOB),))


def checks_of(namespace: str) -> Kind:
    """Return the pods of node checks. One that a job made is none, whatever its labels say."""
    return Kind(
        _scoped("/api/v1", namespace, "pods"),
        (("labelSelector", f"{contract.LABEL_CHECK},!{contract.LABEL_JOB}"),),
    )


def quotas_of(namespace: str) -> Kind:
    """Return the ResourceQuotas of a namespace, or of all when it is empty."""
    return Kind(_scoped("/api/v1", namespace, "resourcequotas"))


NODES: Final = Kind("/api/v1/nodes")
# Pods of everybody else that may hold resources of a node; to a watch the end of such a pod is a deletion.
FOREIGN_PODS: Final = Kind(
    "/api/v1/pods",
    (
        ("labelSelector", f"!{contract.LABEL_JOB}"),
        ("fieldSelector", "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"),
    ),
)


Observe = Callable[[str, int], None]
"""Called with method and HTTP status of every answer; status 0 means that none came."""


Lines = AsyncGenerator[str, None]


def unobserved(_method: str, _code: int) -> None:
    """Count nothing: for callers that have no metrics."""


_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_DRY: Final = (("dryRun", "All"),)
_PATHS: Final = {
    "Service": ("/api/v1", "services"),
    "ConfigMap": ("/api/v1", "configmaps"),
    "NetworkPolicy": ("/apis/networking.k8s.io/v1", "networkpolicies"),
}


async def credentials(context: str | None = None) -> client.Configuration:
    """Return how to reach the cluster this process runs in, else the one of the kubeconfig's current context.

    `context` names another context of the kubeconfig.

    Raises:
        Refused: there is neither.
    """
    settings = client.Configuration()
    # Nothing in the client's configuration and transport is annotated: hence the ignores in this file.
    try:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(config_file=_kubeconfig(), client_configuration=settings, context=context)  # type: ignore[no-untyped-call]
    except config.ConfigException as error:
        raise Refused(
            "KUBECONFIG", wrong=str(error), right="set KUBECONFIG to a file with a current context"
        ) from error
    settings.connection_pool_maxsize = POOL
    return settings


async def connect(observe: Observe, context: str | None = None) -> "Gateway":
    """Return a gateway with the credentials above."""
    return Gateway(client.ApiClient(configuration=await credentials(context)), observe)


def _kubeconfig() -> str | None:
    """Return KUBECONFIG as it is now: the client reads it once, when it is imported."""
    return os.environ.get("KUBECONFIG") or None


def current_namespace(context: str | None = None) -> str:
    """Return the namespace that kubectl would use: the context's, or that of the pod this process runs in.

    Raises:
        Refused: the kubeconfig has no such context.
    """
    if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and _NAMESPACE_FILE.exists():
        return _NAMESPACE_FILE.read_text().strip()
    try:
        known, current = config.list_kube_config_contexts(_kubeconfig())  # type: ignore[no-untyped-call]
    except config.ConfigException:
        return "default"  # what is wrong with it is told where a connection is wanted
    named = {one["name"]: one for one in known} if context else {}
    if context and context not in named:
        raise Refused("--context", wrong=f"{context} is not in the kubeconfig", right=f"use one of {', '.join(named)}")
    chosen = named[context] if context else current
    return str(chosen.get("context", {}).get("namespace") or "default")


class Gateway:
    """Calls to the API server. Every method is idempotent and raises only `errors.ClusterError`."""

    def __init__(self, api: client.ApiClient, observe: Observe) -> None:
        self._api = api
        self._observe = observe

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
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

    async def objects(self, kind: Kind) -> list[Object]:
        """LIST all objects of a kind, for callers that ask once and about few."""
        return [raw async for page in self.pages(kind.path, kind.query) for raw in page.get("items") or ()]

    async def job(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}")

    async def node(self, name: str) -> Object:
        return await self.call("GET", f"/api/v1/nodes/{name}")

    async def pod(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def secret(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")

    async def config_map(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"/api/v1/namespaces/{namespace}/configmaps/{name}")

    # Writing

    async def apply(self, body: Object) -> Object:
        """Server-side apply an object of a job; our fields win, other managers keep theirs.

        Raises:
            NotOurs: there is one of this name that no job of this name owns.
        """
        meta = body["metadata"]
        root, plural = _PATHS[body["kind"]]
        path = f"{root}/namespaces/{meta['namespace']}/{plural}/{meta['name']}"
        try:
            there = await self.call("GET", path)
        except errors.NotFound:
            there = None
        if there is not None and not _jobs_owning(there) & _jobs_owning(body):
            told = f"{body['kind']} {meta['name']} belongs to no job; remove it, or give the job another name"
            raise errors.NotOurs(f"409 Conflict: {told}")
        return await self.call("PATCH", path, query=_FORCED, body=body, content_type=_APPLY)

    async def create_pod(self, body: Object) -> Object:
        """Create a pod, or return the one that is there when it has the same owner.

        Raises:
            PodRefused: a quota or an admission policy stands in the way.
            Conflict: a namesake belongs to somebody else, for example to a job of the same name that
                was deleted a moment ago and whose pods are still going.
        """
        meta = body["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods"
        try:
            return await self.call("POST", path, query=_MANAGED, body=body)
        except errors.GiveUp as error:
            raise errors.PodRefused(str(error)) from error
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

    async def delete_job(self, namespace: str, name: str, *, uid: str, version: str) -> None:
        """Delete a job that is still at this resourceVersion; one that is gone already is success.

        Raises:
            Conflict: it was changed, or deleted and made anew.
        """
        options: Object = {
            "preconditions": {"uid": uid, "resourceVersion": version},
            "propagationPolicy": "Background",
        }
        try:
            await self.call("DELETE", f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}", body=options)
        except errors.NotFound:
            return

    async def patch_node(self, name: str, patch: Object) -> Object:
        """Merge `patch` into a node; lists in it replace those of the node.

        Raises:
            Conflict: the patch names a resourceVersion, and the node has another one.
        """
        return await self.call("PATCH", f"/api/v1/nodes/{name}", query=_MANAGED, body=patch, content_type=_MERGE)

    async def apply_node(self, body: Object, *, manager: str) -> Object:
        """Server-side apply a part of a node on behalf of `manager`; what it applied before and leaves out now goes."""
        query = (("fieldManager", manager), ("force", "true"))
        path = f"/api/v1/nodes/{body['metadata']['name']}"
        return await self.call("PATCH", path, query=query, body=body, content_type=_APPLY)

    async def write_condition(self, node: str, condition: Object, *, manager: str) -> Object:
        """Apply one condition of a node on behalf of `manager`; conditions merge by type, so those of others stay."""
        body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}, "status": {"conditions": [condition]}}
        query = (("fieldManager", manager), ("force", "true"))
        return await self.call("PATCH", f"/api/v1/nodes/{node}/status", query=query, body=body, content_type=_APPLY)

    async def date(self) -> datetime:
        """Return the API server's clock, in whole seconds: the Date header of an answer, whatever the answer.

        Raises:
            Retry: no answer, or one without a date.
        """
        try:
            answer = await self._send("GET", "/version")
            await answer.read()  # type: ignore[no-untyped-call]
            return parsedate_to_datetime(answer.response.headers["Date"])
        except (TimeoutError, aiohttp.ClientError, OSError, KeyError, ValueError) as error:
            raise errors.Retry(f"GET /version: {type(error).__name__}: {error}") from error

    async def write_status(self, namespace: str, name: str, *, uid: str, version: str, status: Object) -> Object:
        """Apply the whole status: fields left out now but written before are removed.

        Raises:
            Conflict: the job is not at resourceVersion `version` any more: it was edited, or deleted and made anew.
                So a size is only written for the spec that it was chosen by, which is held from then on.
        """
        path = f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}"
        meta = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": version}
        kind = {"apiVersion": f"{contract.API_GROUP}/{contract.API_VERSION}", "kind": contract.KIND}
        body = kind | {"metadata": meta, "status": status}
        return await self.call("PATCH", f"{path}/status", query=_FORCED, body=body, content_type=_APPLY)

    async def patch_job(self, namespace: str, name: str, patch: Object, *, manager: str) -> Object:
        """Merge `patch` into a job on behalf of a person; the API server refuses what it does not know."""
        path = f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}"
        query = [("fieldManager", manager), ("fieldValidation", "Strict")]
        return await self.call("PATCH", path, query=query, body=patch, content_type=_MERGE)

    async def create_job(self, body: Object, *, manager: str, dry_run: bool) -> Object:
        """Create a job on behalf of a person, or only ask whether the API server would.

        Raises:
            AlreadyExists: there is a job of this name.
            GiveUp: the API server refuses it.
        """
        path = f"{JOBS}/namespaces/{body['metadata']['namespace']}/{contract.PLURAL}"
        query = [("fieldManager", manager), ("fieldValidation", "Strict")]
        return await self.call("POST", path, query=[*query, *(_DRY if dry_run else ())], body=body)

    async def try_job(self, body: Object, *, manager: str) -> Object:
        """Ask what the API server would say to `kubectl apply --server-side` of a job that exists. Nothing changes."""
        meta = body["metadata"]
        path = f"{JOBS}/namespaces/{meta['namespace']}/{contract.PLURAL}/{meta['name']}"
        query = [("fieldManager", manager), ("force", "true"), ("fieldValidation", "Strict"), *_DRY]
        return await self.call("PATCH", path, query=query, body=body, content_type=_APPLY)

    async def may(self, verb: str, group: str, resource: str, namespace: str) -> bool:
        """Ask whether the caller may do something in a namespace, `resource` as in pods or pods/log."""
        kind, _, part = resource.partition("/")
        asked = {"verb": verb, "group": group, "resource": kind, "subresource": part, "namespace": namespace}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": asked}}  # fmt: skip
        answer = await self.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body=body)
        return bool(answer.get("status", {}).get("allowed"))

    async def patch_status(self, namespace: str, name: str, *, uid: str, version: str, part: Object) -> Object:
        """Merge a part into the status of a job whose other parts cannot be read.

        Raises:
            Conflict: the job is not at resourceVersion `version` any more.
        """
        path = f"{JOBS}/namespaces/{namespace}/{contract.PLURAL}/{name}/status"
        body = {"metadata": {"uid": uid, "resourceVersion": version}, "status": part}
        return await self.call("PATCH", path, query=_MANAGED, body=body, content_type=_MERGE)

    async def record_event(self, body: Object) -> None:
        """Create an Event, or count the one of the same name up: names are derived from what is said."""
        path = f"/api/v1/namespaces/{body['metadata']['namespace']}/events"
        try:
            await self.call("POST", path, body=body)
        except errors.AlreadyExists:
            path = f"{path}/{body['metadata']['name']}"
            count = (await self.call("GET", path)).get("count", 1) + 1
            again = {"count": count, "lastTimestamp": body["lastTimestamp"]}
            await self.call("PATCH", path, query=_MANAGED, body=again, content_type=_MERGE)

    async def lease(self, namespace: str, name: str) -> Object:
        return await self.call("GET", f"{_LEASES}/{namespace}/leases/{name}")

    async def create_lease(self, body: Object) -> Object:
        return await self.call("POST", f"{_LEASES}/{body['metadata']['namespace']}/leases", body=body)

    async def update_lease(self, body: Object) -> Object:
        """Replace a lease; the resourceVersion inside makes it compare-and-swap."""
        meta = body["metadata"]
        return await self.call("PUT", f"{_LEASES}/{meta['namespace']}/leases/{meta['name']}", body=body)

    # Logs

    async def log(
        self, namespace: str, pod: str, *, container: str, follow: bool = False, tail: int | None = None
    ) -> Lines:
        """Yield the lines of a container's log without their line feeds; with `follow` until the container ends.

        Raises:
            GiveUp: the container has not started, or its pod is on no node.
        """
        query = [("container", container), ("follow", str(follow).lower())]
        query += [("tailLines", str(tail))] if tail is not None else []
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        left = b""
        try:
            answer = await self._send("GET", path, query=query, limit=_ENDLESS if follow else TIMEOUT)
            if answer.status != 200:
                _decoded(answer.status, await answer.read())  # type: ignore[no-untyped-call]
            async for chunk in answer.response.content.iter_any():
                *lines, left = (left + chunk).split(b"\n")
                for line in lines:
                    yield line.decode(errors="replace")
        except (TimeoutError, aiohttp.ClientError) as error:
            raise errors.Retry(f"GET {path}: {type(error).__name__}: {error}") from error
        if left:
            yield left.decode(errors="replace")

    # Following

    async def census(self, kind: Kind, take: Callable[[Object], object]) -> Census:
        """LIST in chunks and hand over each object: ten thousand pods are never in memory at once."""
        uids: set[str] = set()
        version = 0
        async for page in self.pages(kind.path, kind.query):
            for number, raw in enumerate(page.get("items") or ()):
                if number % BREATH == 0:
                    await asyncio.sleep(0)
                uids.add(raw["metadata"]["uid"])
                take(raw)
            version = int(page["metadata"]["resourceVersion"])
        return Census(frozenset(uids), version)

    async def watch(self, kind: Kind, version: int, *, seconds: int) -> AsyncIterator[Object]:
        """Yield what happens after `version`, for about `seconds`; bookmarks come once a minute when nothing does.

        Raises:
            Expired: `version` is too old to go on from.
            Retry: the stream broke, or brought not even a bookmark.
        """
        query = [*kind.query, ("watch", "true"), ("allowWatchBookmarks", "true"), ("timeoutSeconds", str(seconds))]
        try:
            answer = await self._send("GET", kind.path, query=[*query, ("resourceVersion", str(version))], limit=STREAM)
            try:
                self._observe("GET", answer.status)
                if answer.status != 200:
                    raise errors.from_status(answer.status, _parsed(await answer.read()))  # type: ignore[no-untyped-call]
                async for line in _lines(answer.response.content):
                    event: Object = json.loads(line)
                    if event["type"] == "ERROR":
                        raise errors.from_status(int(event["object"].get("code") or 500), event["object"])
                    yield event
            finally:
                answer.response.close()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise errors.Retry(f"WATCH {kind.path}: {type(error).__name__}: {error}") from error

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
        try:
            answer = await self._send(method, path, query=query, body=body, content_type=content_type)
            text = await answer.read()  # type: ignore[no-untyped-call]
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            self._observe(method, 0)
            raise errors.Retry(f"{method} {path}: {type(error).__name__}: {error}") from error
        self._observe(method, answer.status)
        return _decoded(answer.status, text)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Object | None = None,
        content_type: str = "application/json",
        limit: aiohttp.ClientTimeout = TIMEOUT,
    ) -> rest.RESTResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        prepared = await self._api.param_serialize(
            method, path, query_params=list(query), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        return await self._api.call_api(*prepared, _request_timeout=limit)


_FORCED: Final = (("fieldManager", FIELD_MANAGER), ("force", "true"))
_MANAGED: Final = (("fieldManager", FIELD_MANAGER),)
_JOB: Final = (contract.API_GROUP, contract.KIND)
_LEASES: Final = "/apis/coordination.k8s.io/v1/namespaces"


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield the lines of a stream by the chunk: a call of `readline` for each costs as much as parsing it."""
    rest = b""
    while chunk := await stream.readany():
        *whole, rest = (rest + chunk).split(b"\n")
        for number, line in enumerate(whole, start=1):
            yield line
            if number % BREATH == 0:
                await asyncio.sleep(0)


def _decoded(code: int, text: bytes) -> Object:
    parsed = _parsed(text)
    if not 200 <= code <= 299:
        raise errors.from_status(code, parsed)
    return parsed


def _parsed(text: bytes) -> Object:
    try:
        parsed: Object = json.loads(text)
    except ValueError:
        # A proxy or a starting API server answers in plain text.
        return {"message": text.decode(errors="replace")}
    return parsed


def _scoped(root: str, namespace: str, plural: str) -> str:
    return f"{root}/namespaces/{namespace}/{plural}" if namespace else f"{root}/{plural}"


def _owners(body: Object) -> set[str]:
    return {owner["uid"] for owner in body["metadata"].get("ownerReferences", ())}


def _jobs_owning(body: Object) -> set[str]:
    """Names and not uids: a job that was made anew takes over what its namesake left."""
    owners = body["metadata"].get("ownerReferences", ())
    return {owner["name"] for owner in owners if (owner["apiVersion"].partition("/")[0], owner["kind"]) == _JOB}
