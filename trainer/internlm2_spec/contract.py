"""The contract between operator and trainer: every name that both halves spell.

Neither half may write one of these strings a second time; a change here is a change of the wire
format between pods that may run different versions.
"""

import enum
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass, replace
from types import NoneType, UnionType
from typing import Any, Final, get_args, get_origin

from internlm2_spec.standstill import MAX_RANKS, Cluster
from internlm2_spec.straggler import Slow

API_GROUP: Final = "training.internlm.io"
API_VERSION: Final = "v1alpha1"
KIND: Final = "InternLM2Job"
PLURAL: Final = "internlm2jobs"

# Labels of every object that belongs to a job.
LABEL_JOB: Final = f"{API_GROUP}/job"
LABEL_STAGE: Final = f"{API_GROUP}/stage"
LABEL_ATTEMPT: Final = f"{API_GROUP}/attempt"
LABEL_SLOT: Final = f"{API_GROUP}/slot"
LABEL_ROLE: Final = f"{API_GROUP}/role"
LABEL_REPLACEMENT: Final = f"{API_GROUP}/replacement"
# Labels of a pod of a node check, and the annotation of its rank 0 that says who takes part.
LABEL_CHECK: Final = f"{API_GROUP}/check"
LABEL_RANK: Final = f"{API_GROUP}/rank"
ANNOTATION_MEMBERS: Final = f"{API_GROUP}/members"

# On a node: the taint key of a cordon, and the annotation that proves the cordon is ours.
TAINT_FAULT: Final = f"{API_GROUP}/fault"
ANNOTATION_FAULT: Final = f"{API_GROUP}/fault"
# On a node: what it was cordoned for, and what the operator found against it without a cordon.
ANNOTATION_HISTORY: Final = f"{API_GROUP}/history"
ANNOTATION_HELD: Final = f"{API_GROUP}/held"
# Set to a reason on a node that is to be emptied: jobs write a checkpoint and go on elsewhere.
ANNOTATION_DRAIN: Final = f"{API_GROUP}/drain"
# On a node: how its last check by the operator ended.
ANNOTATION_CHECK: Final = f"{API_GROUP}/check"
# Set to a time (RFC 3339) on a node whose faults up to then were dealt with: the node agent forgets them.
ANNOTATION_RESET: Final = f"{API_GROUP}/health-reset"

CONFIG_PATH: Final = "/etc/internlm2/job.json"
TERMINATION_LOG: Final = "/dev/termination-log"
METRICS_PORT: Final = 9100
RENDEZVOUS_PORT: Final = 29400

# Environment that the operator sets in a pod and that `template.env` may therefore not set.
ENV_ATTEMPT: Final = "INTERNLM2_ATTEMPT"
ENV_POD: Final = "INTERNLM2_POD"
ENV_NODE: Final = "INTERNLM2_NODE"
# Set by the agent for its ranks, or by a test or a person for either.
ENV_INCARNATION: Final = "INTERNLM2_INCARNATION"  # process starts within this pod so far
ENV_RUN_DIR: Final = "INTERNLM2_RUN_DIR"  # where ranks leave their Termination for the agent
ENV_ENDED: Final = "INTERNLM2_ENDED"  # the Termination of the incarnation before, as JSON; unset for a first one
ENV_TERMINATION_LOG: Final = "INTERNLM2_TERMINATION_LOG"  # instead of TERMINATION_LOG
ENV_METRICS_PORT: Final = "INTERNLM2_METRICS_PORT"  # instead of METRICS_PORT; 0 is any free one
ENV_MEMORY_DIR: Final = "INTERNLM2_MEMORY_DIR"  # where ranks keep copies for a restart in place; unset: nowhere
ENV_CACHE_DIR: Final = "INTERNLM2_CACHE_DIR"  # where corpus shards are kept
RESERVED_ENV_PREFIXES: Final = ("INTERNLM2_", "TORCHELASTIC_", "PET_")
RESERVED_ENV_NAMES: Final = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE",
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_REGION",
)  # fmt: skip


class ExitCode(enum.IntEnum):
    """How a trainer process or pod ends; anything else (137, 139, 1) is infrastructure."""

    DONE = 0  # and the final manifest exists: success is proved by the manifest
    CONFIG = 64
    DATA = 65
    BUG = 70
    STOPPED = 75  # on request, after a checkpoint
    NODE_CHECK = 76
    HANG = 77


# Reason of a rank that ended itself because nothing went on; its exit code is ExitCode.HANG.
HANG: Final = "Hang"

# A restart in place cannot help after these: the agent gives up at once and says why.
FINAL_EXIT_CODES: Final = frozenset({ExitCode.CONFIG, ExitCode.DATA, ExitCode.STOPPED, ExitCode.NODE_CHECK})


class FailureClass(enum.StrEnum):
    """Who a pod's end is blamed on, as far as the trainer itself can tell."""

    DONE = "done"
    STOPPED = "stopped"
    USER = "user"  # configuration, data, or a bug in the code that trains
    PEER = "peer"  # another member went away: never the cause, always a symptom
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, slots=True)
class Termination:
    """The one JSON object in `/dev/termination-log` (Kubernetes keeps at most 4,096 bytes of it).

    `time` is when the rank fell, in seconds since the epoch: its pod ends seconds later, once the other ranks have.
    """

    failure: FailureClass
    reason: str
    exit_code: int
    message: str = ""
    rank: int | None = None
    step: int | None = None
    first_failing_rank: int | None = None
    traceback: str = ""  # its last lines
    time: float | None = None
    stood: tuple[Cluster, ...] = ()  # of a hang: where this pod's ranks stood

    MAX_BYTES = 4096

    def to_json(self) -> str:
        """Return the object as JSON, cutting the oldest traceback lines to stay under the limit."""
        said = asdict(self)
        while len((text := json.dumps(said)).encode()) > self.MAX_BYTES and said["traceback"]:
            said["traceback"] = said["traceback"][len(said["traceback"]) // 4 + 1 :]
        if len(text.encode()) <= self.MAX_BYTES:
            return text
        text = json.dumps(said | {"message": said["message"][:512]})
        if len(text.encode()) <= self.MAX_BYTES or not self.stood:
            return text
        return replace(self, traceback="", stood=()).to_json()

    @classmethod
    def from_json(cls, text: str) -> "Termination | None":
        """Parse a termination message; None for text that is not ours (a shell's, the kubelet's)."""
        try:
            return cls(**dict(_read(cls, _object(text))))
        except (ValueError, TypeError):
            return None


class TrainPhase(enum.StrEnum):
    """What a trainer is doing, as `/progress` and the metric `internlm2_train_phase` say it."""

    INIT = "init"
    LOAD = "load"
    STEP = "step"
    CHECKPOINT = "checkpoint"
    DONE = "done"


FIRST_INCARNATION: Final = 0
_MAX_TIME: Final = 2.0**33  # seconds, in the year 2242: a calendar ends not far beyond


@dataclass(frozen=True, slots=True)
class Progress:
    """Body of `GET :9100/progress`, served by local rank 0 of each pod.

    `incarnation` counts process starts within this pod from FIRST_INCARNATION, so a restart in place is
    visible from outside.
    `started_step` is the step this incarnation resumed from; `step` the last finished one.
    Times are seconds since the epoch. What may be missing is not said by trainers of an earlier version.
    """

    phase: TrainPhase
    rank: int
    world: int
    attempt: int
    incarnation: int
    started_step: int
    step: int
    step_time: float  # when `step` finished
    started_time: float  # when this process started
    first_step_time: float | None  # when the first step of this incarnation finished
    loss: float | None
    tokens_per_second: float | None
    mfu: float | None
    checkpoint_step: int | None
    checkpoint_time: float | None
    limit_seconds: float | None = None  # without progress, after which the trainer ends itself, where it is now
    ended: Termination | None = None  # the incarnation before this one
    slow: Slow | None = None  # the rank that has held up the others for some time

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Progress":
        """Raise ValueError for a body that is not a progress object."""
        try:
            return cls(**dict(_read(cls, _object(text))))
        except TypeError as error:
            raise ValueError(f"not a progress object: {error}") from error


def _object(text: str) -> object:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def _read(kind: type[Any], read: object) -> Iterator[tuple[str, Any]]:
    """Yield the fields of `kind` that a JSON object has; those that a newer trainer adds are passed over.

    A user's program can write both objects: a value of another type must not get past here.

    Raises:
        ValueError: no JSON object, or a value that its field cannot have.
    """
    if not isinstance(read, dict):
        raise ValueError("not an object")
    for field in fields(kind):
        if field.name in read:
            yield field.name, _value(field.type, read[field.name], field.name)


def _value(types: Any, value: object, name: str) -> object:
    for kind in get_args(types) if get_origin(types) is UnionType else (types,):
        if kind is NoneType and value is None:
            return None
        if get_origin(kind) is tuple and isinstance(value, list):
            return tuple(_value(get_args(kind)[0], each, name) for each in value[:MAX_RANKS])
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            return kind(**dict(_read(kind, value)))
        if kind is str and isinstance(value, str):
            return value.encode("utf-8", "replace").decode()  # lone surrogates could not be written again
        if kind is int and type(value) is int and abs(value) < 2**53:
            return value
        if kind is bool and isinstance(value, bool):
            return value
        if kind is float and type(value) in (int, float):
            number = float(str(value))
            if 0 <= number < _MAX_TIME or not name.endswith("time"):
                return number
        if isinstance(kind, type) and issubclass(kind, enum.StrEnum) and isinstance(value, str):
            return kind(value)
    raise ValueError(f"{name} cannot be of type {type(value).__name__}, or so large")


# Checkpoints: `<url>/<stage>/step-<n>/manifest.json`, written last; `<url>/fence.json`.
MANIFEST_NAME: Final = "manifest.json"
FENCE_NAME: Final = "fence.json"
MANIFEST_FORMAT: Final = "internlm2-checkpoint/1"


def step_prefix(stage: str, step: int) -> str:
    """Return the folder of one checkpoint, relative to the checkpoint URL."""
    return f"{stage}/step-{step:08d}"


def step_of(folder: str) -> int | None:
    """Return the step of a checkpoint folder's last path part, None for a foreign name."""
    name = folder.rstrip("/").rsplit("/", 1)[-1]
    digits = name.removeprefix("step-")
    return int(digits) if name != digits and digits.isdigit() and len(digits) == 8 else None
