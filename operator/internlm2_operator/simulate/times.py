"""How long the parts of a recovery take: what the lab measured, and what is assumed for clusters it cannot be."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final


def _measured(*samples: float, what: str) -> Any:
    return field(default=samples, metadata={"what": what})


def _assumed(value: float, what: str, why: str) -> Any:
    return field(default=value, metadata={"what": what, "why": why})


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds, unless the name says otherwise. A tuple holds samples of `bench/results/recovery.json`, and the stalls
    are the medians of `bench/results/checkpoint.json`.

    Measured means: real kubelets, torchrun, S3 and operator on one machine with two nodes and a spare, a model of a
    few million parameters on CPUs. The parts that grow with the cluster or the model are the assumed ones, and they
    come on top.
    """

    notice: tuple[float, ...] = _measured(
        2.15, 1.9, 2.17, 1.8, 2.69, 7.66, 1.87, 2.08, 7.36, 1.95,
        what="a process dies -> torchrun starts all of them again",
    )  # fmt: skip
    lapse: tuple[float, ...] = _measured(
        8.42, 7.85, 8.24, 7.44, 9.7, 9.92, 9.32, 7.51, 7.79,
        what="a node falls silent -> torchrun forms again without it",
    )  # fmt: skip
    verdict: tuple[float, ...] = _measured(
        0.65, 1.45, 0.84, 1.48, 1.62, 0.26, 0.37, 0.41, 0.52, 4.22,
        what="the operator sees a signal -> verdict, cordon and plan",
    )  # fmt: skip
    start: tuple[float, ...] = _measured(
        7.56, 7.72, 6.17, 6.58, 8.71, 12.0, 7.32, 6.35, 9.83, 6.2,
        what="processes start -> state loaded: imports, rendezvous, build, small load",
    )  # fmt: skip
    first_step: tuple[float, ...] = _measured(
        3.59, 3.95, 2.71, 1.77, 2.95, 3.24, 2.11, 2.77, 2.07, 1.91,
        what="state loaded -> steps go on",
    )  # fmt: skip
    save_stall: float = field(default=0.26, metadata={"what": "training waits for one save"})
    copy_stall: float = field(default=0.26, metadata={"what": "training waits for one copy to memory"})
    xid_seconds: float = _assumed(
        45,
        "an XID -> the operator sees it",
        "the exporter collects every 30 s, Prometheus scrapes every 30 s, and a poll",
    )
    node_grace: float = _assumed(
        50, "a kubelet falls silent -> Ready=Unknown", "the default of Kubernetes from 1.32 on; the lab sets 8"
    )
    hang_seconds: float = _assumed(
        60, "a collective hangs -> its process is ended", "the trainer's own limit at these steps"
    )
    node_check: float = _assumed(20, "a restart on a bad GPU -> its node check fails", "the goal set for the check")
    silent_seconds: float = _assumed(
        1800, "silent corruption -> the loss tells", "nobody publishes it; long against a checkpoint interval"
    )
    pod_start: float = _assumed(5, "a pod is made -> it runs", "the image is on the node")
    pods_per_second: float = _assumed(150, "pods made each second", "the goal set for the operator; JobSet states 290")
    form_seconds: float = _assumed(
        30, "rendezvous and process groups of all ranks, on top of the measured start",
        "MegaScale, arXiv 2402.15627: under 30 s on more than 10,000 GPUs",
    )  # fmt: skip
    load_seconds: float = _assumed(
        30, "state is read, on top of the measured start", "405 G parameters x 14 bytes at 200 GB/s; Llama 3's store"
        " sustains 2 TB/s"
    )  # fmt: skip
    compile_seconds: float = _assumed(30, "first step compiles, on top of the measured one", "a warm compiler cache")
    save_seconds: float = _assumed(30, "a save is complete in the store", "as many bytes at the same 200 GB/s")
    planned_seconds: float = _assumed(
        300, "a planned pause, from the last pod's end", "change of image or configuration"
    )
    repair_hours: float = _assumed(
        24,
        "hours until a cordoned node comes back, on average",
        "a reset takes minutes, a swapped part days; nobody publishes the mean",
    )
    detect_at_least: float = field(default=0.0, metadata={"what": "no fault is noticed sooner than this"})
    recover_at_least: float = field(default=0.0, metadata={"what": "no step sooner than this after its fault"})

    def seen(self, seconds: float) -> float:
        """Return a time of detection under the floor that was asked for."""
        return max(seconds, self.detect_at_least)


ASSUMED: Final = tuple(f.name for f in fields(Times) if "why" in f.metadata)


def told(times: Times) -> Iterator[tuple[str, str, str]]:
    """Yield of each part its name and meaning, its value, and where that is from."""
    plain = Times()
    for part in fields(Times):
        value = getattr(times, part.name)
        if isinstance(value, tuple):
            yield part.metadata["what"], f"{sorted(value)[len(value) // 2]:g} (median of {len(value)})", "measured"
        elif "why" in part.metadata:
            own = value != getattr(plain, part.name)
            yield part.metadata["what"], f"{value:g}", "given" if own else f"assumed: {part.metadata['why']}"
        elif value:
            yield part.metadata["what"], f"{value:g}", "measured" if part.name.endswith("stall") else "given"


def changed(times: Times, values: dict[str, float | None]) -> Times:
    """Return the times with those of `values` that are not None."""
    return replace(times, **{name: value for name, value in values.items() if value is not None})  # type: ignore[arg-type]


def meaning(name: str) -> str:
    """Return what an assumed part is, and its default."""
    part = next(f for f in fields(Times) if f.name == name)
    return f"{part.metadata['what']} (default {part.default:g})"
