"""Events that tell a person what the operator did."""

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.manifests.metadata import Manifest
from internlm2_operator.plan.actions import Announce
from internlm2_spec.contract import API_GROUP, API_VERSION, KIND

COMPONENT = "internlm2-operator"
MAX_MESSAGE = 1024  # the API server refuses longer ones


def event(job: InternLM2Job, announce: Announce, now: datetime) -> Manifest:
    """Return the Event of one announcement. The same words about the same job have the same name."""
    kind = {"apiVersion": f"{API_GROUP}/{API_VERSION}", "kind": KIND}
    return _event(kind | {"name": job.name, "namespace": job.namespace, "uid": job.uid}, announce, now)


def config_map_event(meta: Mapping[str, Any], announce: Announce, now: datetime) -> Manifest:
    """Return the Event of one announcement about the ConfigMap of this metadata."""
    kind = {"apiVersion": "v1", "kind": "ConfigMap"}
    return _event(kind | {key: str(meta[key]) for key in ("name", "namespace", "uid")}, announce, now)


def _event(about: dict[str, str], announce: Announce, now: datetime) -> Manifest:
    said = hashlib.sha256(f"{about['uid']} {announce.reason} {announce.message}".encode()).hexdigest()[:16]
    at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{about['name']}.{said}", "namespace": about["namespace"]},
        "involvedObject": about,
        "reason": announce.reason,
        "message": announce.message[:MAX_MESSAGE],
        "type": "Warning" if announce.warning else "Normal",
        "source": {"component": COMPONENT},
        "firstTimestamp": at,
        "lastTimestamp": at,
        "count": 1,
    }
