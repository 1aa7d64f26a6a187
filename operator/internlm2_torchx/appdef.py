"""From an AppDef of torchx and a manifest to an InternLM2Job, and from a job's status to torchx's states. Pure.

The manifest says what is trained; the AppDef says on how many nodes, of which shape, in which image. What the operator
writes itself, torchrun's command line and its rendezvous, is read out of the AppDef and left behind.
"""

import copy
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from torchx.schedulers.api import DescribeAppResponse
from torchx.specs import AppDef, AppState, Resource, Role
from torchx.specs.api import ReplicaStatus, RoleStatus, macros
from torchx.version import TORCHX_IMAGE

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.status import Phase
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.config import Refused

MODULE: Final = "internlm2_trainer"
VERB: Final = "train"
ROLE: Final = "trainer"
# What dist.torchrun and dist.ddp ask for when nobody does: nothing that a trainer could live in.
COMPONENT_CPU: Final = 2
COMPONENT_MB: Final = 1024

STATES: Final[Mapping[str, AppState]] = {
    Phase.PENDING: AppState.PENDING,
    Phase.QUEUED: AppState.PENDING,
    Phase.STARTING: AppState.PENDING,
    Phase.RUNNING: AppState.RUNNING,
    Phase.RECOVERING: AppState.RUNNING,
    Phase.SUSPENDED: AppState.CANCELLED,
    Phase.SUCCEEDED: AppState.SUCCEEDED,
    Phase.FAILED: AppState.FAILED,
}
_PODS: Final[Mapping[str, AppState]] = {
    PodPhase.PENDING: AppState.PENDING,
    PodPhase.RUNNING: AppState.RUNNING,
    PodPhase.SUCCEEDED: AppState.SUCCEEDED,
    PodPhase.FAILED: AppState.FAILED,
}


@dataclass(frozen=True, slots=True)
class Launch:
    """What a role's torchrun command says: ranks on a node, and the module with its arguments."""

    ranks: int
    module: str
    arguments: tuple[str, ...]


def app_id(namespace: str, name: str) -> str:
    return f"{namespace}:{name}"


def parse_id(text: str) -> tuple[str, str]:
    """Return namespace and name; an id without a namespace is in `default`."""
    namespace, _, name = text.rpartition(":")
    return namespace or "default", name


def manifest(app: AppDef, base: Mapping[str, Any], namespace: str | None) -> dict[str, Any]:
    """Return the job: `base` with what the AppDef says in its place.

    Raises:
        Refused: the AppDef asks for something that an InternLM2Job does not have.
    """
    role = _only_role(app)
    launch = launched(role)
    _check(role, launch)
    body = copy.deepcopy(dict(base))
    meta = body["metadata"]
    meta["namespace"] = namespace or meta.get("namespace") or "default"
    spec: dict[str, Any] = body.setdefault("spec", {})
    most = role.num_replicas
    bounds = {"min": role.min_replicas or most, "max": most, "gpusPerNode": launch.ranks}
    spec["nodes"] = (spec.get("nodes") or {}) | bounds
    if role.max_retries:
        spec["failurePolicy"] = (spec.get("failurePolicy") or {}) | {"maxRestarts": role.max_retries}
    spec["template"] = _template(spec.get("template") or {}, role, app_id(meta["namespace"], meta["name"]))
    return body


def _only_role(app: AppDef) -> Role:
    if len(app.roles) != 1:
        raise Refused(
            "roles", wrong=f"the app has {len(app.roles)}", right="use a component with one, as dist.torchrun"
        )
    role = app.roles[0]
    if role.mounts:
        raise Refused("mounts", wrong=f"{len(role.mounts)} are asked for",
                      right="write template.volumes and template.volumeMounts into the manifest")  # fmt: skip
    return role


def launched(role: Role) -> Launch:
    """Read torchrun's command line of a role, which dist.torchrun and dist.ddp wrap in `bash -c`.

    Raises:
        Refused: it is another command.
    """
    words = list(role.args)
    if role.entrypoint == "bash" and words[:1] == ["-c"] and len(words) == 2:
        words = shlex.split(words[1])
    elif role.entrypoint:
        words = [role.entrypoint, *words]
    if words[:1] != ["torchrun"]:
        raise Refused(
            "component", wrong=f"its command is `{' '.join(words[:1])}`", right="use dist.torchrun or dist.ddp"
        )
    options: dict[str, str] = {}
    place = 1
    while place < len(words) and words[place].startswith("--"):
        name, is_set, value = words[place].partition("=")
        options[name.replace("-", "_")] = value if is_set else words[place + 1] if place + 1 < len(words) else ""
        place += 1 if is_set else 2
    rest = words[place:]
    module, arguments = (rest[1], rest[2:]) if rest[:1] == ["-m"] and len(rest) > 1 else (" ".join(rest[:1]), rest[1:])
    ranks = options.get("__nproc_per_node", "")
    if not ranks.isdigit():
        raise Refused(
            "-j", wrong=f"{ranks or 'no number'} of processes on a node", right="write -j NODESxGPUS, as in 2x8"
        )
    return Launch(int(ranks), module, tuple(arguments))


def _check(role: Role, launch: Launch) -> None:
    if launch.module != MODULE or launch.arguments not in ((), (VERB,)):
        raise Refused("-m", wrong=f"`{' '.join((launch.module, *launch.arguments))}` is not what an InternLM2Job runs",
                      right=f"write -m {MODULE}; stages and options stand in the manifest")  # fmt: skip
    if role.resource.gpu > 0 and role.resource.gpu != launch.ranks:
        raise Refused("--gpu", wrong=f"{role.resource.gpu} GPUs and {launch.ranks} processes on a node",
                      right="a GPU has one process: make them equal")  # fmt: skip
    if role.resource.devices:
        raise Refused("-h", wrong=f"devices {', '.join(role.resource.devices)} are asked for",
                      right="write them into template.resources.limits of the manifest")  # fmt: skip


def _template(template: Mapping[str, Any], role: Role, identity: str) -> dict[str, Any]:
    filled = dict(template)
    if role.image and role.image != TORCHX_IMAGE:  # which is torchx's own, and holds no trainer
        filled["image"] = role.image
    known = {entry["name"]: entry for entry in template.get("env") or ()}
    values = macros.Values(img_root="", app_id=identity, replica_id="0", rank0_env="")
    said = {name: {"name": name, "value": values.substitute(value)} for name, value in role.env.items()}
    filled["env"] = list((known | said).values())
    if requests := _requests(role.resource):
        resources = dict(template.get("resources") or {})
        filled["resources"] = resources | {"requests": (resources.get("requests") or {}) | requests}
    return filled


def _requests(resource: Resource) -> dict[str, str]:
    """Return what a person or a named resource asked for; the defaults of the components are nobody's wish."""
    if (resource.cpu, resource.memMB) == (COMPONENT_CPU, COMPONENT_MB):
        return {}
    asked = {"cpu": (resource.cpu, ""), "memory": (resource.memMB, "Mi")}
    return {name: f"{amount}{unit}" for name, (amount, unit) in asked.items() if amount > 0}


def described(job: InternLM2Job, pods: Iterable[PodRecord]) -> DescribeAppResponse:
    """Return a job as torchx shows it: one role, whose replicas are the slots of the current attempt."""
    status, nodes = job.status, job.spec.nodes
    mine = {pod.slot: pod for pod in sorted(pods, key=lambda p: p.replacement) if pod.attempt == status.attempt}
    replicas = [
        ReplicaStatus(id=slot, role=ROLE, state=_PODS[pod.phase], hostname=pod.node or "")
        for slot, pod in sorted(mine.items())
    ]
    role = Role(
        name=ROLE, image=job.spec.template.image or "", min_replicas=nodes.min,
        num_replicas=max(1, status.size + nodes.spares if status.size else nodes.max),
        resource=Resource(cpu=-1, gpu=nodes.gpus_per_node, memMB=-1),
    )  # fmt: skip
    return DescribeAppResponse(
        app_id=app_id(job.namespace, job.name),
        state=state(job),
        num_restarts=status.restarts.counted + status.restarts.infrastructure,
        msg=_words(job),
        roles=[role],
        roles_statuses=[RoleStatus(role=ROLE, replicas=replicas)],
    )


def state(job: InternLM2Job) -> AppState:
    """Return the state of a job: one that was cancelled is on its way to be, or is, suspended."""
    if job.spec.suspend and job.status.completion_time is None:
        return AppState.CANCELLED
    return STATES[job.status.phase]


def _words(job: InternLM2Job) -> str:
    """Return the condition that says most: the failure, else why it does not go on, else nothing."""
    for kind, truth in (("Failed", "True"), ("Validated", "False"), ("Scheduled", "False"), ("Progressing", "False")):
        known = job.status.condition(kind)
        if known is not None and known.status == truth:
            return re.sub(r"[: ]+$", "", f"{known.reason}: {known.message}")
    return ""
