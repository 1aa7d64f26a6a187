"""One recorded fault: what was seen, and what it must lead to. `tests/data/faults/README.md` describes the shape."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from internlm2_operator.health.cordon import Mode
from internlm2_operator.health.verdict import Blame
from internlm2_spec.config import Refused
from internlm2_spec.contract import FailureClass

KINDS: Final = frozenset(
    {"kernel_log", "metric", "node_condition", "pod_exit", "rank_log", "progress", "prometheus_down"}
)
# Other recorders' names of the same fields.
ALIASES: Final = {
    "text": "line",
    "log": "line",
    "metric": "name",
    "exitCode": "code",
    "exit_code": "code",
    "stalled_seconds": "stalledSeconds",
    "stalledFor": "stalledSeconds",
    "uuid": "gpu",
    "UUID": "gpu",
    "condition": "type",
}
# Reasons that Kubernetes writes into a pod's condition DisruptionTarget, and what people call the first.
DISRUPTIONS: Final = {
    "Preempted": "PreemptionByScheduler",
    "PreemptionByScheduler": "PreemptionByScheduler",
    "EvictionByEvictionAPI": "EvictionByEvictionAPI",
    "DeletionByTaintManager": "DeletionByTaintManager",
}
TERMINATION_ALIASES: Final = {"class": "failure", "exitCode": "exit_code", "firstFailingRank": "first_failing_rank"}
GPUS: Final = 8
START: Final = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Observation:
    """One signal of a case; `fields` are those of its kind."""

    at: datetime
    kind: str
    node: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Expected:
    """`cordoned` is every node that must be, `node` the one to blame."""

    blame: Blame
    node: str | None
    cordoned: frozenset[str]
    action: str


@dataclass(frozen=True, slots=True)
class Case:
    id: str
    jobs: Mapping[str, tuple[str, ...]]  # nodes by job; the first job is the one that the case is about
    seen: tuple[Observation, ...]  # in time order
    expected: Expected
    domains: Mapping[str, str] = field(default_factory=dict)
    mode: Mode = Mode.ENFORCE
    smallest: int | None = None  # nodes that the job needs, spares among them
    gpus: int = GPUS  # of each node, whether a signal names them or not

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes of the case."""
        named = (name for names in self.jobs.values() for name in names)
        return tuple(dict.fromkeys((*named, *(one.node for one in self.seen if one.node))))

    def job_of(self, node: str) -> str:
        """Return the job of a node, empty for none and for several."""
        found = [job for job, nodes in self.jobs.items() if node in nodes]
        return found[0] if len(found) == 1 else ""


def read(folder: Path) -> list[Case]:
    """Read every `*.json` under a folder, or one file.

    Raises:
        Refused: there is none, or one is not a case; the message names file and field.
    """
    paths = sorted(folder.rglob("*.json")) if folder.is_dir() else [folder]
    if not folder.exists() or not paths:
        raise Refused(str(folder), wrong="no case is there", right="name a folder with cases, one JSON a file")
    return [_case(path) for path in paths]


def _case(path: Path) -> Case:
    try:
        raw = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Refused(str(path), wrong=f"no JSON: {error}", right="write one case as a JSON object") from error
    try:
        return case(raw)
    except Refused as error:
        raise Refused(f"{path}: {error.path}", wrong=error.wrong, right=error.right) from error


def case(raw: Any) -> Case:
    """Return a case from its JSON.

    Raises:
        Refused: a field is missing or not of its kind.
    """
    job = _get(raw, "job", dict)
    jobs = {str(job.get("name") or "job"): _nodes(job)}
    for other in job.get("otherJobs") or ():
        jobs[str(_get(other, "name", str))] = _nodes(other)
    smallest, gpus = job.get("minNodes"), job.get("gpusPerNode")
    seen = [_observation(one, index) for index, one in enumerate(_get(raw, "signals", list))]
    return Case(
        id=_get(raw, "id", str),
        jobs=jobs,
        seen=tuple(sorted(seen, key=lambda one: one.at)),
        expected=_expected(_get(raw, "expect", dict)),
        domains=_domains(job.get("topology") or raw.get("topology") or {}),
        mode=Mode(job.get("mode") or raw.get("mode") or Mode.ENFORCE),
        smallest=None if smallest is None else int(smallest) + int(job.get("spares") or 0),
        gpus=gpus if type(gpus) is int and gpus > 0 else GPUS,
    )


def _nodes(job: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(map(str, _get(job, "nodes", list)))


def _domains(topology: Mapping[str, Any]) -> dict[str, str]:
    """Return the switch or rack of each node; a topology may also list the nodes of each."""
    found: dict[str, str] = {}
    for key, value in topology.items():
        found |= {str(node): str(key) for node in value} if isinstance(value, list) else {str(key): str(value)}
    return found


def _observation(raw: Any, index: int) -> Observation:
    where = f"signals[{index}]"
    if not isinstance(raw, dict) or not isinstance(raw.get("t"), int | float):
        raise Refused(f"{where}.t", wrong=f"{raw!r:.60}", right="give the seconds as a number")
    if raw.get("kind") not in KINDS:
        raise Refused(f"{where}.kind", wrong=f"{raw.get('kind')!r}", right=f"use one of {', '.join(sorted(KINDS))}")
    fields = {ALIASES.get(str(key), str(key)): value for key, value in raw.items()}
    if raw["kind"] in ("kernel_log", "rank_log") and "line" not in fields:
        lines = fields.get("lines")
        fields["line"] = "\n".join(map(str, lines)) if isinstance(lines, list) else fields.get("message", "")
    if raw["kind"] == "pod_exit":
        if (taken := DISRUPTIONS.get(str(fields.get("reason")))) is not None:
            fields.setdefault("disruption", taken)
        fields |= _said(fields)
    return Observation(START + timedelta(seconds=raw["t"]), raw["kind"], str(raw.get("node") or ""), fields)


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a pod left: the trainer's object, also as the text that the kubelet hands on, or any other text."""
    said = fields.get("termination")
    if isinstance(said, str):
        try:
            parsed = json.loads(said)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            return {"termination": None, "message": fields.get("message") or said}
        said = parsed
    return {"termination": _termination(said, fields.get("code"))} if isinstance(said, dict) else {}


def _termination(said: Mapping[str, Any], code: object) -> dict[str, Any]:
    """Return a termination object in the trainer's words, with what people leave out filled in.

    A traceback is a program's, whatever else the object lacks.
    """
    read = {TERMINATION_ALIASES.get(key, key): value for key, value in said.items()}
    read.setdefault("exit_code", code if isinstance(code, int) else 1)
    read.setdefault("reason", str(read.get("exception") or read.get("message") or "Unknown"))
    if read.get("failure") not in list(FailureClass) and (read.get("traceback") or read.get("exception")):
        read["failure"] = FailureClass.USER
    if isinstance(lines := read.get("traceback"), list):
        read["traceback"] = "\n".join(map(str, lines))
    return read


def _expected(raw: Mapping[str, Any]) -> Expected:
    blames = ", ".join(Blame)
    if raw.get("class") not in set(Blame):
        raise Refused("expect.class", wrong=f"{raw.get('class')!r}", right=f"use one of {blames}")
    cordon, node = raw.get("cordon"), raw.get("node")
    if not isinstance(cordon, bool):
        raise Refused("expect.cordon", wrong=f"{cordon!r}", right="use true or false")
    named = raw.get("cordons") if raw.get("cordons") is not None else [node] if cordon else []
    return Expected(Blame(raw["class"]), node, frozenset(map(str, named or ())), str(raw.get("action") or ""))


def _get(raw: Any, key: str, kind: type) -> Any:
    if not isinstance(raw, dict) or not isinstance(raw.get(key), kind):
        found = type(raw).__name__ if not isinstance(raw, dict) else repr(raw.get(key))[:60]
        raise Refused(key, wrong=found, right=f"give a {kind.__name__}")
    return raw[key]
