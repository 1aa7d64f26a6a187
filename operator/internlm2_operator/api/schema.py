"""From a pydantic model to the structural schema that a CustomResourceDefinition takes."""

from collections.abc import Mapping
from typing import Any, Final

from internlm2_operator.api.base import ApiModel

# What pydantic says and the API server does not take, or takes only inside a `properties` entry.
_DROPPED: Final = frozenset({"title", "$defs", "$ref", "anyOf", "allOf", "const", "default", "prefixItems"})
_INTEGERS: Final = {"format": "int64"}


def structural(model: type[ApiModel]) -> dict[str, Any]:
    """Return the OpenAPI v3 schema of a model: references inlined, null removed, defaults and CEL rules kept."""
    schema = model.model_json_schema(by_alias=True)
    return _convert(schema, schema.get("$defs", {}))


def _convert(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    if node.get("x-kubernetes-int-or-string"):
        return dict(node)
    merged = _inlined(node, defs)
    schema = {key: value for key, value in merged.items() if key not in _DROPPED}
    if "const" in merged:
        schema["enum"] = [merged["const"]]
    if schema.get("type") == "integer":
        schema |= _INTEGERS
    for bound in ("Minimum", "Maximum"):
        if (limit := schema.pop(f"exclusive{bound}", None)) is not None:
            schema |= {bound.lower(): limit, f"exclusive{bound}": True}
    if merged.get("default") is not None:
        # A section's default is written out: the API server checks `{}` against the section's own CEL rules before
        # it fills in the defaults of its fields, and refuses the CRD.
        schema["default"] = _without_null(merged["default"])
    if "properties" in schema:
        schema.pop("additionalProperties", None)
        schema["properties"] = {name: _convert(child, defs) for name, child in schema["properties"].items()}
    elif isinstance(extra := schema.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _convert(extra, defs)
    elif "additionalProperties" in schema:
        schema.pop("additionalProperties")
    if "items" in schema:
        schema["items"] = _convert(schema["items"], defs)
    return schema


def _without_null(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {key: _without_null(child) for key, child in value.items() if child is not None}


def _inlined(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """Replace a reference, or a choice of something and null, by what it stands for; what `node` says itself wins."""
    own = {key: value for key, value in node.items() if key not in ("$ref", "anyOf")}
    if "$ref" in node:
        return _inlined(defs[node["$ref"].rsplit("/", 1)[-1]], defs) | own
    choices = [choice for choice in node.get("anyOf", ()) if choice.get("type") != "null"]
    return _inlined(choices[0], defs) | own if choices else own
