"""The CustomResourceDefinition of InternLM2Job."""

from typing import Any, Final

from internlm2_operator.api import schema
from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.spec import Spec
from internlm2_operator.api.status import JobStatus
from internlm2_spec import contract

SHORT_NAME: Final = "ilj"

# Heading, type, JSON path; what `kubectl get ilj` prints.
COLUMNS: Final = (
    ("Phase", "string", ".status.phase"),
    ("Stage", "string", ".status.stage"),
    ("Nodes", "integer", ".status.nodes.active"),
    ("Step", "integer", ".status.step"),
    ("Loss", "number", ".status.loss"),
    ("MFU", "number", ".status.mfu"),
    ("Restarts", "integer", ".status.restarts.total"),
    ("Last-Fault", "string", ".status.faults[-1:].cause"),
    ("Age", "date", ".metadata.creationTimestamp"),
)


def definition() -> dict[str, Any]:
    """Return the CustomResourceDefinition as an object of the API server."""
    names = {
        "kind": contract.KIND,
        "listKind": f"{contract.KIND}List",
        "plural": contract.PLURAL,
        "singular": contract.KIND.lower(),
        "shortNames": [SHORT_NAME],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{contract.PLURAL}.{contract.API_GROUP}"},
        "spec": {
            "group": contract.API_GROUP,
            "scope": "Namespaced",
            "names": names,
            "versions": [_version()],
        },
    }


def _version() -> dict[str, Any]:
    return {
        "name": contract.API_VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [{"name": name, "type": kind, "jsonPath": path} for name, kind, path in COLUMNS],
        "schema": {"openAPIV3Schema": _root()},
    }


def _root() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "InternLM2Job trains an InternLM2 model and keeps it training when nodes fail.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "maxLength": 64, "description": "apiVersion of the object."},
            "kind": {"type": "string", "maxLength": 64, "description": "kind of the object."},
            "metadata": {"type": "object"},
            "spec": schema.structural(Spec),
            "status": schema.structural(JobStatus),
        },
        "x-kubernetes-validations": [rule.to_schema() for rule in InternLM2Job.rules],
    }
