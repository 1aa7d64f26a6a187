"""`internlm2 plan`: what a manifest would do, before it is applied. Text is pure; only `on_cluster` asks anybody."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli import forecast, interval, manifest, objects, rights, why
from internlm2_operator.cli.admission import Problem, judge
from internlm2_operator.cli.answer import UNKNOWN, Answer, columns, size, span
from internlm2_operator.cli.change import MANAGER
from internlm2_operator.cli.forecast import Assumptions, Size
from internlm2_operator.cli.text import job_name
from internlm2_operator.cluster import errors, gateway
from internlm2_operator.cluster.gateway import Gateway
from internlm2_spec import presets
from internlm2_spec.config import Refused
from internlm2_spec.gpus import GIB

# Rows of a table: of more legal sizes than this the middle is left out. `-o json` has all of them.
ROWS: Final = 12
PAUSES: Final = (1.0, 10.0, 60.0)


class Unfit(Exception):
    """A manifest that would be refused, with every reason."""

    def __init__(self, path: str, problems: Sequence[Problem | str]) -> None:
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))


@dataclass(frozen=True, slots=True)
class Reliability:
    """`node_hours` is a node's mean time to failure, None for Llama 3's; `pause` how many seconds a save holds up."""

    node_hours: float | None = None
    pause: float | None = None

    def of_node(self, gpus: int) -> float:
        return interval.LLAMA3_GPU_HOURS / gpus if self.node_hours is None else self.node_hours

    def words(self, gpus: int) -> str:
        if self.node_hours is not None:
            return f"a node fails every {self.node_hours:,.0f} h as given"
        return f"a node of {gpus} GPUs fails every {self.of_node(gpus):,.0f} h by the rate of {interval.LLAMA3}"


@dataclass(frozen=True, slots=True)
class Forecast:
    """A job and its stages at every legal size."""

    job: InternLM2Job
    stages: tuple[tuple[Size, ...], ...]
    assumed: Assumptions
    reliability: Reliability

    @property
    def nodes(self) -> list[int]:
        return [one.nodes for one in self.stages[0]]


def checked(body: dict[str, Any], path: str) -> InternLM2Job:
    """Return the job of a manifest, with a namespace, that the API server would take.

    Raises:
        Unfit: it would be refused.
    """
    filled, problems = judge(body)
    if problems:
        raise Unfit(path, problems)
    return manifest.imagined(filled)


def foresee(job: InternLM2Job, assumed: Assumptions, reliability: Reliability) -> Forecast:
    """Return what every stage would need at every legal size.

    Raises:
        Refused: there is none.
    """
    legal, gpus = forecast.legal_sizes(job), job.spec.nodes.gpus_per_node
    if not legal:
        wrong = (
            f"no number of nodes from {job.spec.nodes.min} to {job.spec.nodes.max} has a legal layout in every stage"
        )
        raise Refused("spec.nodes", wrong=wrong, right="change nodes or parallel")
    stages = (job.stage_config(index) for index in range(len(job.spec.stages)))
    return Forecast(job, tuple(tuple(forecast.sizes(s, legal, gpus, assumed)) for s in stages), assumed, reliability)


def answer(seen: Forecast, cluster: Sequence[str] = ()) -> Answer:
    """Return everything about a forecast. `-o yaml` prints the objects at the largest size."""
    lines = [*_head(seen), *_stages(seen, wide=False), *_checkpoints(seen), *cluster]
    wide = [*_head(seen), *_stages(seen, wide=True), *_checkpoints(seen), *cluster]
    return Answer(
        lines=lines,
        wide=wide,
        data=_data(seen, cluster),
        names=(job_name(seen.job),),
        documents=objects.objects(seen.job, max(seen.nodes)),
    )


def _head(seen: Forecast) -> Iterator[str]:
    job, nodes = seen.job, seen.job.spec.nodes
    model = presets.parameters(job.spec.resolved_model())
    yield f"{job.key}: nothing in it would be refused"
    yield f"model: {job.spec.model.preset or 'config'}, {model / 1e9:.3f}B parameters"
    spare = f", {nodes.spares} spare" if nodes.spares else ""
    yield (
        f"nodes: {nodes.min} to {nodes.max} of {nodes.gpus_per_node} {nodes.resource_name}{spare};"
        f" legal sizes: {_ranges(seen.nodes)}"
    )
    yield seen.assumed.words()


def _ranges(numbers: Sequence[int]) -> str:
    """Return numbers with neighbours joined and long lists cut: 2, 4, 8-10."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join(words if len(words) <= ROWS else [*words[: ROWS - 1], "...", words[-1]])


def _stages(seen: Forecast, *, wide: bool) -> Iterator[str]:
    for spec, found in zip(seen.job.spec.stages, seen.stages, strict=True):
        yield ""
        yield (
            f"stage {spec.name}: {spec.steps:,} steps of {spec.global_batch_tokens:,} tokens"
            f" in sequences of {spec.sequence_length:,}"
        )
        rows: list[tuple[str, ...]] = [
            ("NODES", "RANKS", "DATA", "ACCUMULATION", "GIB/RANK", "LARGEST PART", "STEP", "MFU", "STAGE TAKES")
        ]
        rows += [_row(one, spec.steps, seen.assumed) for one in found]
        table = list(columns(rows))
        hidden = len(table) - 1 - ROWS
        half = ROWS // 2
        yield from table if hidden <= 0 else [*table[: half + 1], f"... {hidden} more, -o json", *table[-half:]]
        if wide:
            yield from _memory(found[-1])


def _row(one: Size, steps: int, assumed: Assumptions) -> tuple[str, ...]:
    held, room = one.fullest, forecast.room(assumed)
    over = "" if room is None or held.total <= room else f" of {room / GIB:.1f}: does not fit"
    time = UNKNOWN if one.seconds is None else f"{one.seconds:.3g} s"
    whole = UNKNOWN if one.seconds is None else span(timedelta(seconds=one.seconds * steps))
    return (
        str(one.nodes), str(one.ranks), str(one.data), str(one.accumulation), f"{held.total / GIB:.1f}{over}",
        held.largest, time, UNKNOWN if one.mfu is None else f"{one.mfu:.1%}", whole,
    )  # fmt: skip


def _memory(one: Size) -> Iterator[str]:
    """Yield the bytes of a rank at each place of the pipeline, by what they are."""
    yield f"GiB of a rank at {one.nodes} nodes, by its place in the pipeline:"
    rows = [("PLACE", *one.memory[0].parts(), "total")]
    for place, held in enumerate(one.memory):
        rows.append((str(place), *(f"{part / GIB:.2f}" for part in (*held.parts().values(), held.total))))
    yield from columns(rows)


def _checkpoints(seen: Forecast) -> Iterator[str]:
    job, saved = seen.job, seen.job.spec.checkpoint
    each, gpus, most = forecast.checkpoint_bytes(job), job.spec.nodes.gpus_per_node, max(seen.nodes)
    mttf = interval.job_mttf(seen.reliability.of_node(gpus), most)
    yield ""
    yield f"checkpoint: {size(each)} of fp32 weights and moments; the {saved.keep} kept are {size(each * saved.keep)}"
    yield f"failures: {seen.reliability.words(gpus)}; {most} nodes every {span(timedelta(seconds=mttf))}"
    for pause in PAUSES if seen.reliability.pause is None else (seen.reliability.pause,):
        told = f"  a save that stops training for {pause:g} s: {_interval(pause, mttf, interval.best(pause, mttf))}"
        step = seen.stages[0][-1].seconds  # of the first stage, at the largest size
        if step is not None:
            most_steps = job.spec.stages[0].steps
            told += f", everySteps {min(most_steps, max(1, round(interval.best(pause, mttf) / step)))}"
            told += f"; everySteps {saved.every_steps}, as it is, {_interval(pause, mttf, saved.every_steps * step)}"
        yield told


def _interval(pause: float, mttf: float, every: float) -> str:
    loss = interval.lost(pause, mttf, every)
    return f"every {span(timedelta(seconds=every))} " + (f"loses {loss:.2%}" if loss < 1 else "leaves no time to train")


def _data(seen: Forecast, cluster: Sequence[str]) -> dict[str, Any]:
    job = seen.job
    gpus, most = job.spec.nodes.gpus_per_node, max(seen.nodes)
    mttf = interval.job_mttf(seen.reliability.of_node(gpus), most)
    pauses = PAUSES if seen.reliability.pause is None else (seen.reliability.pause,)
    named = zip(job.spec.stages, seen.stages, strict=True)
    return {
        "namespace": job.namespace,
        "name": job.name,
        "parameters": presets.parameters(job.spec.resolved_model()),
        "legalSizes": seen.nodes,
        "assumption": seen.assumed.words(),
        "stages": [{"name": s.name, "sizes": [forecast.described(one) for one in found]} for s, found in named],
        "checkpoint": {
            "bytes": forecast.checkpoint_bytes(job),
            "mttfSeconds": mttf,
            "mttfAssumption": seen.reliability.words(gpus),
            "best": [{"pauseSeconds": pause, "everySeconds": interval.best(pause, mttf)} for pause in pauses],
        },
        "cluster": list(cluster),
    }


async def on_cluster(api: Gateway, body: dict[str, Any], path: str, seen: Forecast, now: datetime) -> list[str]:
    """Return what the cluster says: admission by a dry run, rights, quotas, and what the operator would do now.

    Raises:
        Unfit: the API server refuses the manifest; the words are its own.
        ClusterError: the cluster could not be asked.
    """
    denied = await rights.refused(api, seen.job.namespace)
    made: dict[str, Any] | None = None
    try:
        made, verb = await _dry_run(api, body)
        admitted = f"the API server would {verb} it"
    except errors.GiveUp as error:
        if not denied:
            raise Unfit(path, [errors.told(error)]) from error
        admitted = f"the API server does not say whether it would take it: {errors.told(error)}"
    told = [admitted, *(denied or ["you may do all that internlm2 does"]), *await _quotas(api, seen)]
    if made is not None:
        told.append(await _at_once(api, made, now))
    return ["", "on the cluster:", *(f"  {line}" for line in told)]


async def _quotas(api: Gateway, seen: Forecast) -> list[str]:
    pods = [one for one in objects.objects(seen.job, max(seen.nodes)) if one["kind"] == "Pod"]
    try:
        short = rights.shortfalls(await api.objects(gateway.quotas_of(seen.job.namespace)), pods)
    except errors.GiveUp as error:
        return [f"quotas cannot be read: {errors.told(error)}"]
    return [*map(str, short)] or [f"every quota has room for {len(pods)} pods"]


async def _at_once(api: Gateway, made: dict[str, Any], now: datetime) -> str:
    """Return what the operator would do with the job if it were applied now."""
    # What was not written has no version.
    made["metadata"].setdefault("resourceVersion", "0")
    try:
        return f"now: {why.explain(await why.snapshot(api, made), now).lines[0]}"
    except errors.GiveUp as error:
        return f"what would happen now cannot be said: {errors.told(error)}"


async def _dry_run(api: Gateway, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    try:
        return await api.create_job(body, manager=MANAGER, dry_run=True), "create"
    except errors.AlreadyExists:
        return await api.try_job(body, manager=MANAGER), "change"
