"""The reference page of InternLM2Job, made from the same schema that the API server holds."""

from collections.abc import Iterator, Mapping
from typing import Any

from internlm2_operator.api import schema
from internlm2_operator.api.spec import Spec
from internlm2_operator.api.status import CONDITIONS, JobStatus
from internlm2_spec import contract

_HEAD = f"""
# InternLM2Job

`apiVersion: {contract.API_GROUP}/{contract.API_VERSION}`, `kind: {contract.KIND}`, namespaced, short name `ilj`.
The API server refuses what breaks a rule of this page, and says which field, what is wrong and what would be right.
A field in **bold** is required. `[]` stands for each entry of a list.
"""


_EDITS = """
## What may change, and when

| what | when |
|---|---|
| `nodes.min`, `nodes.max`, `nodes.spares`, `suspend`, `failurePolicy`, `health`, `ttlSecondsAfterFinished`, and \
stages that have not begun, which may be added, removed and moved | at any time, with effect at once |
| `template`, `checkpoint`, `nodes.gpusPerNode`, `nodes.resourceName`, and of the current stage `steps`, `optimizer`, \
`parallel`, `guard` | while no attempt has pods: before the first, in `Queued`, in `Suspended` |
| of a stage that has begun `name`, `kind`, `data`, `sequenceLength`, `globalBatchTokens`, `seed`, `ropeBase`, which \
its place in the data is counted by; stages that are done | never |
| `model`, `checkpoint.url`, `managedBy`; `stages` of a job that has ended | never |

So every pod of an attempt is made from one spec. To change what is held: set `suspend: true`, wait for the phase
`Suspended` (pods write a checkpoint first), change it, set `suspend: false`.

## Names

A job is called what a host may be called: at most 63 of `a-z`, `0-9` and `-`, a letter first. Its Service has the same
name, its ConfigMaps `NAME-STAGE`, its pods `NAME-STAGE-ATTEMPT-SLOT[-rREPLACEMENT]`, all three numbers counted by the
operator; of a name above 40 characters pods carry the first 30 and a hash of the whole. Labels hold it whole.

## Other queues

`suspend` and `managedBy` are the two ends that another controller can hold: it makes or keeps a job suspended and lets
it go when there is room, as Kueue does with a batch/v1 Job; with `managedBy` it runs the job altogether. The operator
queues by itself otherwise, and gives each pod its node. Kueue's groups of plain pods are no way in: the reasons are in
[decision 10](decisions/0010-kueue-holds-jobs-not-pods.md). Where Kueue manages pods without a queue name, exempt the
namespaces of jobs.

## Conditions

Conditions carry the truth, `status.phase` is for the column. `kubectl describe ilj NAME` shows them and the events.
"""


def page() -> str:
    """Return the page in Markdown: every field of spec and status with type, default, bounds and meaning."""
    fields = (_section(name, schema.structural(model)) for name, model in _ROOTS)
    return "\n\n".join([_HEAD.strip(), _EDITS.strip(), _conditions(), *fields]) + "\n"


def _conditions() -> str:
    rows = (f"| `{kind}` | {meaning} |" for kind, meaning in CONDITIONS.items())
    return "| condition | true means; false says why |\n|---|---|\n" + "\n".join(rows)


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
