"""Manifests for tests: one valid job, and the same with some fields changed."""

import copy
from typing import Any, Final

GONE: Final = object()

_VALID: Final[dict[str, Any]] = {
    "apiVersion": "training.internlm.io/v1alpha1",
    "kind": "InternLM2Job",
    "metadata": {"name": "job", "namespace": "default"},
    "spec": {
        "model": {"preset": "internlm2-7b"},
        "checkpoint": {"url": "s3://bucket/run", "secretName": "s3"},
        "nodes": {"min": 2, "max": 4, "gpusPerNode": 8},
        "stages": [
            {
                "name": "pretrain",
                "data": {"url": "s3://bucket/corpus"},
                "sequenceLength": 4096,
                "globalBatchTokens": 4194304,
                "steps": 100,
                "parallel": {"tensor": 2, "zero": {"shard": 8}},
            }
        ],
    },
}


def job(changes: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the valid job with fields set by dotted path below `spec` (`metadata.` for the rest), or GONE."""
    body: dict[str, Any] = copy.deepcopy(_VALID)
    for path, value in (changes or {}).items():
        root = body if path.startswith("metadata.") else body["spec"]
        _put(root, path.split("."), value)
    return body


def stage(**fields: Any) -> dict[str, Any]:
    """Return the stage of the valid job with fields replaced."""
    valid: dict[str, Any] = copy.deepcopy(_VALID["spec"]["stages"][0])
    return valid | fields


def _put(target: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        target = target[int(part)] if isinstance(target, list) else target.setdefault(part, {})
    if value is GONE:
        del target[path[-1]]
    else:
        target[path[-1]] = value
