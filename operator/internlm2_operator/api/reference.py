"""The reference page of InternLM2Job, made from the same schema that the API server holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from internlm2_operator.api import schema
from internlm2_operator.api.spec import Spec
from internlm2_operator.api.status import JobStatus
from internlm2_spec import contract

_HEAD = f"""
# InternLM2Job

`apiVersion: {contract.API_GROUP}/{contract.API_VERSION}`, `kind: {contract.KIND}`, namespaced, short name `ilj`.
The API server refuses what breaks a rule of this page, and says which field, what is wrong and what would be right.
A field in **bold** is required. `[]` stands for each entry of a list.
"""


def page() -> str:
    """Return the page in Markdown: every field of spec and status with type, default, bounds and meaning."""
    parts = [_HEAD.strip(), *(_section(name, schema.structural(model)) for name, model in _ROOTS)]
    return "\n\n".join(parts) + "\n"


_ROOTS = (("spec", Spec), ("status", JobStatus))


def _section(root: str, body: Mapping[str, Any]) -> str:
    head = f"## {root}\n\n| field | type | default | bounds | meaning |\n|---|---|---|---|---|\n"
    return head + "\n".join(_rows(root, body))


def _rows(path: str, body: Mapping[str, Any]) -> Iterator[str]:
    for name, child in body.get("properties", {}).items():
        inner = child.get("items", {})
        here = f"{path}.{name}" + ("[]" if inner else "")
        shown = f"**`{here}`**" if name in body.get("required", ()) else f"`{here}`"
        cells = (shown, _type(child), _default(child), _bounds(child), child.get("description", ""))
        yield "| " + " | ".join(cells) + " |"
        yield from _rows(here, inner or child)


def _type(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    return f"list of {_type(node['items'])}" if "items" in node else str(node.get("type", "any"))


def _default(node: Mapping[str, Any]) -> str:
    default = node.get("default")
    return (
        ""
        if isinstance(default, dict) or default in (None, [], "")
        else f"`{str(default).lower() if default is False else default}`"
    )


def _bounds(node: Mapping[str, Any]) -> str:
    low = f"{'above' if node.get('exclusiveMinimum') else 'from'} {node['minimum']:g}" if "minimum" in node else ""
    high = f"{'below' if node.get('exclusiveMaximum') else 'to'} {node['maximum']}" if "maximum" in node else ""
    size = f"at most {node['maxItems']} entries" if "maxItems" in node else ""
    length = f"at most {node['maxLength']} characters" if "maxLength" in node else ""
    return " ".join(part for part in (low, high, size, length) if part)
