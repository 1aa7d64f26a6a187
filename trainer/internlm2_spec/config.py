"""One stage of a job as the trainer reads it: the JSON in the ConfigMap and on a laptop alike.

Frozen dataclasses with the manifest's camelCase spelling on the wire. `parse` is strict: an unknown
or missing field, or a value of another type, raises `Refused` with the path as the user wrote it.
"""

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

# The order of sources repeats after the sum of the weights, and a trainer makes it at its start.
MAX_WEIGHT: Final = 10000


class Refused(ValueError):
    """A user's mistake: which field, what is wrong, what would be right. One line, no traceback."""

    def __init__(self, path: str, *, wrong: str, right: str) -> None:
        super().__init__(f"{path}: {wrong}; {right}")
        self.path = path
        self.wrong = wrong
        self.right = right


def refuse(*rules: tuple[str, bool, str, str]) -> None:
    """Raise Refused for the first rule (field, whether it holds, what is wrong, what would be right) that fails."""
    for path, holds, wrong, right in rules:
        if not holds:
            raise Refused(path, wrong=wrong, right=right)


@dataclass(frozen=True, slots=True)
class Model:
    """Sizes of an InternLM2 model (report, table 3). Head size is hidden / heads."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int


@dataclass(frozen=True, slots=True)
class DataSource:
    """A corpus in a mixture: packed token shards at file:// or s3://, and its share of the samples.

    Only documents of `min_document_tokens` to `max_document_tokens` tokens are read, both included.
    """

    url: str
    weight: int = 1
    min_document_tokens: int = 1
    max_document_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """What a stage trains on: one corpus at `url`, or several `sources` by weight."""

    url: str | None = None
    sources: tuple[DataSource, ...] = ()

    def __post_init__(self) -> None:
        """Refuse neither or both, and a source that can give nothing."""
        if (self.url is None) == (not self.sources):
            wrong = "neither url nor sources" if self.url is None else "both url and sources"
            raise Refused("data", wrong=wrong, right="set exactly one of them")
        for number, source in enumerate(self.sources):
            path, low, high = f"data.sources[{number}]", source.min_document_tokens, source.max_document_tokens
            if not 1 <= source.weight <= MAX_WEIGHT:
                right = f"use a whole number from 1 to {MAX_WEIGHT}, or leave the source out"
                raise Refused(f"{path}.weight", wrong=f"{source.weight} is no share", right=right)
            if high is not None and high < max(1, low):
                wrong = f"{high} is below minDocumentTokens {low}"
                raise Refused(f"{path}.maxDocumentTokens", wrong=wrong, right=f"use {max(1, low)} or more")

    @property
    def mixture(self) -> tuple[DataSource, ...]:
        """Return the sources; a lone url is one."""
        return self.sources if self.url is None else (DataSource(self.url),)


@dataclass(frozen=True, slots=True)
class Optimizer:
    """AdamW, its schedule, and whether it goes on where the stage before stopped.

    All schedules warm up linearly. `Cosine` falls to `min_lr` at the stage's end; `WSD` stays at `lr` and
    falls in the last `decay_steps`; `Constant` stays. Defaults are those of the InternLM2 report, except
    for `decay`: 1 - sqrt ended lower than linear in arXiv 2405.18392.
    `moments` `Carry` takes AdamW's moments along with the weights of the stage before, as one run of
    pre-training does; `Reset` starts them from zero.
    """

    lr: float = 3.0e-4
    min_lr: float = 3.0e-5
    warmup_steps: int = 0
    schedule: Literal["Cosine", "WSD", "Constant"] = "Cosine"
    decay_steps: int = 0
    decay: Literal["OneMinusSqrt", "Linear"] = "OneMinusSqrt"
    moments: Literal["Carry", "Reset"] = "Carry"
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a decay without length, and a length without decay."""
        if (self.schedule == "WSD") != (self.decay_steps > 0):
            wrong = f"{self.decay_steps} with schedule {self.schedule}"
            right = "use 1 or more, about a tenth of steps" if self.schedule == "WSD" else "use 0, or schedule WSD"
            raise Refused("optimizer.decaySteps", wrong=wrong, right=right)


@dataclass(frozen=True, slots=True)
class Guard:
    """What happens when training goes wrong by itself.

    A gradient that is not finite changes nothing and is counted (`Skip`), or ends the job (`Stop`).
    The loss spikes when it is above `median + threshold * sigma` of the last `window` losses for
    `patience` steps in a row. `RollBack` then loads the newest checkpoint from before and goes on with
    the batches after the spike, at most `max_rollbacks` times a stage; `Report` only says so.
    """

    non_finite: Literal["Skip", "Stop"] = "Skip"
    spike: Literal["RollBack", "Report", "Off"] = "RollBack"
    window: int = 128
    threshold: float = 10.0
    patience: int = 3
    max_rollbacks: int = 10

    def __post_init__(self) -> None:
        """Refuse a statistic of nothing."""
        refuse(
            ("guard.window", self.window >= 2, f"{self.window} is too small", "use 2 or more"),
            ("guard.patience", self.patience >= 1, f"{self.patience} is too small", "use 1 or more"),
        )


@dataclass(frozen=True, slots=True)
class Hang:
    """How long a rank may go without a step: `multiple` of the 99th percentile of the last ones, or `floor_seconds`."""

    multiple: float = 3.0
    floor_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Refuse a limit that ordinary steps would reach."""
        refuse(
            ("hang.multiple", self.multiple >= 2, f"{self.multiple} is too small", "use 2 or more"),
            ("hang.floorSeconds", self.floor_seconds >= 1, f"{self.floor_seconds} is too small", "use 1 or more"),
        )


@dataclass(frozen=True, slots=True)
class Zero:
    """ZeRO stage, and over how many data ranks it shards (the rest of data replicates)."""

    stage: Literal[1, 2, 3] = 1
    shard: int = 1


Schedule = Literal["GPipe", "1F1B", "Interleaved1F1B", "InterleavedZeroBubble", "ZBVZeroBubble"]
Recompute = Literal["None", "Selective", "Full"]


@dataclass(frozen=True, slots=True)
class Parallel:
    """Degrees of the mesh; data parallelism is what remains of the ranks.

    Of the `context` ranks that share a sequence, groups of `ulysses` exchange heads and the groups form a
    ring. The default leaves all to the ring, which fits any number of heads.
    `schedule` orders the micro-batches of a pipeline. `recompute` holds for `recompute_fraction` of the
    layers, evenly spread. `compile` compiles each layer.
    """

    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    ulysses: int = 1
    zero: Zero = field(default_factory=Zero)
    schedule: Schedule = "1F1B"
    micro_batch: int = 1
    recompute: Recompute = "None"
    recompute_fraction: float = 1.0
    compile: bool = False


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where checkpoints go, how often, and how many finished ones are kept.

    Every `memory_every_steps` the state is kept in the node's memory too, 0 for never; steps that are
    multiples of `keep_every_steps` are never deleted, 0 for none.
    """

    url: str
    every_steps: int = 50
    keep: int = 5
    keep_every_steps: int = 0
    memory_every_steps: int = 10

    def __post_init__(self) -> None:
        """Refuse what would keep nothing, or divide by nothing."""
        if self.every_steps < 1:
            raise Refused("checkpoint.everySteps", wrong=f"{self.every_steps} is too small", right="use 1 or more")
        if self.keep_every_steps % self.every_steps:
            wrong = f"{self.keep_every_steps} is not a multiple of everySteps {self.every_steps}"
            right = f"use a multiple of {self.every_steps}, or 0 for none"
            raise Refused("checkpoint.keepEverySteps", wrong=wrong, right=right)


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything one stage needs to train.

    `init_from` names the stage whose final checkpoint this one starts from; None starts from random
    weights. `global_batch_tokens` counts tokens of one optimizer step over all ranks.
    """

    name: str
    model: Model
    data: Data
    checkpoint: Checkpoint
    sequence_length: int
    global_batch_tokens: int
    steps: int
    kind: Literal["Pretrain"] = "Pretrain"
    rope_base: float = 50000.0
    seed: int = 1024
    optimizer: Optimizer = field(default_factory=Optimizer)
    parallel: Parallel = field(default_factory=Parallel)
    guard: Guard = field(default_factory=Guard)
    hang: Hang = field(default_factory=Hang)
    init_from: str | None = None

    def __post_init__(self) -> None:
        """Refuse a schedule that is longer than the stage."""
        warmup, decay = self.optimizer.warmup_steps, self.optimizer.decay_steps
        if warmup + decay > self.steps:
            wrong = f"warmupSteps {warmup} and decaySteps {decay} are more than steps {self.steps}"
            right = f"shorten them to {self.steps} in all, or raise steps"
            raise Refused("optimizer.warmupSteps", wrong=wrong, right=right)


def camel(name: str) -> str:
    """Spell a field the way the manifest does: kv_heads -> kvHeads."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def to_json(stage: Stage) -> str:
    """Return the stage as the JSON that `parse` reads, keys sorted so that equal stages are equal text."""
    return json.dumps(_encode(stage), sort_keys=True, indent=1)


def read(path: str) -> Stage:
    """Read the stage that a file describes; raise Refused when it cannot be read or is not a stage."""
    try:
        text = Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refused("--config", wrong=f"{path} cannot be read ({error})", right="name a JSON file") from error
    return parse(text)


def parse(text: str) -> Stage:
    """Parse one stage.

    Raises:
        Refused: not JSON, an unknown or missing field, or a value of the wrong type.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise Refused("config", wrong=f"not JSON ({error})", right="pass one JSON object") from error
    return typing.cast(Stage, _decode(Stage, data, ""))


def _encode(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {camel(f.name): _encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_encode(each) for each in value] if isinstance(value, tuple) else value


def _decode(kind: Any, data: Any, path: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _decode_object(typing.cast(type, kind), data, path)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _decode_list(typing.get_args(kind)[0], data, path)
    if origin is Literal:
        choices = typing.get_args(kind)
        if data in choices and not isinstance(data, bool):
            return data
        raise Refused(path, wrong=f"{data!r} is not known", right=f"use one of {', '.join(map(str, choices))}")
    if origin in (typing.Union, types.UnionType):
        return None if data is None else _decode(typing.get_args(kind)[0], data, path)
    if kind is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, kind) or (kind is int and isinstance(data, bool)):
        raise Refused(path, wrong=f"{data!r} is not a {kind.__name__}", right=f"write a {kind.__name__}")
    return data


def _decode_list(kind: Any, data: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise Refused(path, wrong=f"{data!r} is not a list", right="write a list")
    return tuple(_decode(kind, each, f"{path}[{number}]") for number, each in enumerate(data))


def _decode_object(kind: type, data: Any, path: str) -> Any:
    if not isinstance(data, dict):
        raise Refused(path or "config", wrong=f"{data!r} is not an object", right="write an object")
    hints = typing.get_type_hints(kind)
    known = {camel(f.name): f for f in dataclasses.fields(kind)}
    if unknown := sorted(set(data) - set(known)):
        raise Refused(_join(path, unknown[0]), wrong="unknown field", right=f"use one of {', '.join(known)}")
    values = {}
    for key, spec in known.items():
        if key in data:
            values[spec.name] = _decode(hints[spec.name], data[key], _join(path, key))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise Refused(_join(path, key), wrong="missing", right=f"write {key}")
    return kind(**values)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
