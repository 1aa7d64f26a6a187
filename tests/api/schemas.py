"""The schemas of a Kubernetes release, made from the OpenAPI document that its Go module holds, for kubeconform."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

from lab import deps
from lab.settings import versions

DEFINITIONS: Final = "definitions.json"
_AMOUNT: Final = "io.k8s.apimachinery.pkg.api.resource.Quantity"

Schema = dict[str, Any]


def openapi(release: str) -> Schema:
    """Return the OpenAPI document of a release such as v1.35.4; the module is downloaded where it is not yet."""
    env = os.environ | {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=mod", "GOWORK": "off"}
    argv = [deps.go(versions()), "mod", "download", "-json", f"k8s.io/kubernetes@{release}"]
    done = subprocess.run(argv, env=env, cwd="/", capture_output=True, text=True, check=True, timeout=300)
    found: Schema = json.loads((Path(json.loads(done.stdout)["Dir"]) / "api/openapi-spec/swagger.json").read_text())
    return found


def write(release: str, folder: Path) -> str:
    """Write a schema for each kind; returns the location to give to kubeconform."""
    known = openapi(release)["definitions"]
    strict = {name: _strict(body) for name, body in known.items()}
    strict[_AMOUNT] = {"type": ["string", "number"]}
    (folder / DEFINITIONS).write_text(json.dumps({"definitions": strict}))
    for name, body in known.items():
        for kind in body.get("x-kubernetes-group-version-kind", ()):
            end = "-".join(part for part in (kind["group"].partition(".")[0], kind["version"]) if part)
            path = folder / f"{kind['kind']}-{end}.json".lower()
            path.write_text(json.dumps({"$ref": f"{DEFINITIONS}#/definitions/{name}"}))
    return f"{folder}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json"


def _strict(node: Any) -> Any:
    """Close every object, so that a misspelled field is an error, and let what may be either be a number or a text."""
    if not isinstance(node, dict):
        return node
    if node.get("format") == "int-or-string":
        return {"type": ["string", "integer"]}
    closed = {key: _strict(value) for key, value in node.items() if not key.startswith("x-") and key != "$ref"}
    if "$ref" in node:
        closed["$ref"] = node["$ref"]
    if "properties" in node:
        closed["properties"] = {name: _strict(value) for name, value in node["properties"].items()}
        closed["additionalProperties"] = False
    return closed
