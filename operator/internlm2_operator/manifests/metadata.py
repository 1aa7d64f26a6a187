"""The metadata block that every object of a job starts with."""

from collections.abc import Mapping
from typing import Any

from internlm2_operator.api.job import InternLM2Job
from internlm2_spec.contract import API_GROUP, API_VERSION, KIND

Manifest = dict[str, Any]


def owner_reference(job: InternLM2Job) -> Manifest:
    """The garbage collector removes what carries this once the job is gone."""
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "name": job.name,
        "uid": job.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def metadata(
    job: InternLM2Job, *, name: str, labels: Mapping[str, str], annotations: Mapping[str, str] | None = None
) -> Manifest:
    block: Manifest = {
        "name": name,
        "namespace": job.namespace,
        "labels": dict(labels),
        "ownerReferences": [owner_reference(job)],
    }
    return block | ({"annotations": dict(annotations)} if annotations else {})
