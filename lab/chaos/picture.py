"""The picture of a run: every fault in its row, from the break to the next step, and the job's progress below."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from lab.report import ARROWS
from lab.watch import StepSeen

INCH_A_ROW: Final = 0.24


def truthful(steps: Collection[StepSeen]) -> list[StepSeen]:
    """Return the steps between the first and the last, by time: all others are by clocks that a fault changed."""
    if not steps:
        return []
    first, last = (which(steps, key=lambda s: s.step).time for which in (min, max))
    return sorted((s for s in steps if first <= s.time <= last), key=lambda s: s.time)


def draw(result: Mapping[str, Any], steps: Collection[StepSeen], path: Path) -> None:
    """Write the picture as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    faults = result["faults"]
    kinds = sorted({fault["kind"] for fault in faults})
    ordered = truthful(steps)
    start = min([fault["at"] for fault in faults] + [step.time for step in ordered], default=0.0)
    figure, (top, below) = pyplot.subplots(
        2, 1, figsize=(14, 4.5 + INCH_A_ROW * len(kinds)), sharex=True, layout="constrained",
        height_ratios=(max(2.0, INCH_A_ROW * len(kinds)), 3.0),
    )  # fmt: skip
    for fault in faults:
        _bar(top, fault, kinds.index(fault["kind"]), (fault["at"] - start) / 60)
    top.set_yticks(range(len(kinds)), kinds)
    top.set_ylim(-0.6, len(kinds) - 0.4)
    top.grid(axis="x", alpha=0.3)
    told = "bit-equal to the undisturbed run" if result["stepsBitEqualToUndisturbed"] else "NOT bit-equal"
    top.set_title(
        f"{result['faultsInjected']} faults in a row, nobody helping; losses {told}."
        " GPUs and kernel log simulated, kubelets, torchrun, S3, Prometheus real"
    )
    _legend(top)
    below.plot([(s.time - start) / 60 for s in ordered], [s.step for s in ordered], ".", markersize=2)
    below.set(xlabel="minutes", ylabel="optimizer step")
    below.grid(alpha=0.3)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


COLOURS: Final = {
    "signal": "tab:gray",
    "verdict": "tab:red",
    "cordon": "tab:red",
    "replacement": "tab:orange",
    "resume": "tab:blue",
    "closed": "tab:green",
    "settled": "lightgray",
}


def _bar(axes: Any, fault: Mapping[str, Any], row: int, at: float) -> None:
    """Draw one fault: until it was settled in grey, over it the arrows of its records, a tick where it was injected."""
    axes.barh(row, (fault["settledAfterSeconds"] or 0.0) / 60, left=at, height=0.75, color=COLOURS["settled"])
    for record in fault["records"]:
        left = 0.0
        for arrow in ARROWS:
            reached = record["seconds"].get(arrow, left)
            if reached > left:
                axes.barh(row, (reached - left) / 60, left=at + left / 60, height=0.5, color=COLOURS[arrow])
                left = reached
    axes.plot([at], [row], "|", color="black", markersize=9)


def _legend(axes: Any) -> None:
    from matplotlib.patches import Patch

    words = {
        "signal": "until its signal",
        "verdict": "until verdict and cordon",
        "replacement": "until the replacement runs",
        "resume": "until the checkpoint is loaded",
        "closed": "until the next step",
        "settled": "until all was well for 3 steps",
    }
    patches = [Patch(color=COLOURS[key], label=text) for key, text in words.items()]
    axes.legend(handles=patches, ncols=3, loc="lower left", bbox_to_anchor=(0.0, 1.06), fontsize="small")
