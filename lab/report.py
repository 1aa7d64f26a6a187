"""What a run under faults amounts to: a summary, a timeline and two pictures."""

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from lab.watch import StepSeen

# The arrows of one fault, in the order in which they happen.
ARROWS = ("signal", "verdict", "cordon", "replacement", "resume", "closed")


def replayed(steps: Iterable[StepSeen]) -> dict[int, set[str]]:
    """Return the exact losses of every step that was computed more than once."""
    losses: dict[int, list[str]] = defaultdict(list)
    for seen in steps:
        losses[seen.step].append(seen.loss_hex)
    return {step: set(values) for step, values in losses.items() if len(values) > 1}


def bit_equal(steps: Sequence[StepSeen]) -> bool:
    """Return whether steps were replayed at all and each gave the same loss to the last bit."""
    return bool(replayed(steps)) and agree(steps)


def agree(steps: Sequence[StepSeen]) -> bool:
    """Return whether no step ever gave two losses, and none is missing up to the last."""
    seen = {s.step for s in steps}
    return seen == set(range(1, max(seen) + 1)) and all(len(values) == 1 for values in replayed(steps).values())


def seconds_since(injected: float, times: dict[str, str]) -> dict[str, float]:
    """Return when each arrow was reached, in seconds after the fault was injected."""
    return {
        arrow: round(datetime.fromisoformat(times[arrow]).timestamp() - injected, 2)
        for arrow in ARROWS
        if times.get(arrow)
    }


def summary(
    status: dict[str, Any], steps: Sequence[StepSeen], injected: dict[str, float], cordoned: set[str]
) -> dict[str, Any]:
    """Return the demo's closing line; `injected` maps a node to the time its fault was injected."""
    ordered = sorted(steps, key=lambda s: (s.step, s.time))
    return {
        "phase": status.get("phase"),
        "steps": max((s.step for s in ordered), default=0),
        "faults": [
            {
                "cause": fault.get("cause"),
                "node": fault.get("node"),
                "cordoned": fault.get("node") in cordoned,
                "seconds": seconds_since(injected[fault["node"]], fault.get("times") or {})
                if fault.get("node") in injected
                else {},
                "stepsLost": fault.get("stepsLost"),
            }
            for fault in status.get("faults") or []
        ],
        "replayedSteps": len(replayed(ordered)),
        "replayedStepsBitEqual": bit_equal(ordered),
        "lossFirst": round(ordered[0].loss, 4) if ordered else None,
        "lossLast": round(ordered[-1].loss, 4) if ordered else None,
        "loadAverage": round(os.getloadavg()[0], 2),
    }


def draw_loss(steps: Sequence[StepSeen], faults: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw loss by step with the replayed steps marked, and step by time with the faults."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    again = replayed(steps)
    start = min(s.time for s in steps)
    ordered = sorted(steps, key=lambda s: s.time)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.2), layout="constrained")
    left.plot(
        [s.step for s in sorted(steps, key=lambda s: s.step)], [s.loss for s in sorted(steps, key=lambda s: s.step)]
    )
    twice = [s for s in ordered if s.step in again]
    left.scatter([s.step for s in twice], [s.loss for s in twice], s=18, color="tab:orange", zorder=3)
    left.set(
        xlabel="optimizer step",
        ylabel="loss",
        title=f"Loss; orange: {len(again)} steps computed twice, bit-equal: {bit_equal(steps)}",
    )
    right.plot([s.time - start for s in ordered], [s.step for s in ordered], ".", markersize=3)
    for fault in faults:
        _mark_fault(right, fault, start)
    right.set(
        xlabel="seconds since the first step",
        ylabel="optimizer step",
        title="Progress; shaded: from signal to first step",
    )
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _mark_fault(axes: Any, fault: dict[str, Any], start: float) -> None:
    times = {k: datetime.fromisoformat(v).timestamp() - start for k, v in (fault.get("times") or {}).items() if v}
    if "signal" in times and "closed" in times:
        axes.axvspan(times["signal"], times["closed"], alpha=0.25, color="tab:red")
        middle = (times["signal"] + times["closed"]) / 2
        words = f"{fault.get('cause')} on {fault.get('node')}"
        axes.text(middle, 0.97, words, rotation=90, ha="center", va="top", transform=axes.get_xaxis_transform())


def draw_timeline(faults: Sequence[dict[str, Any]], injected: dict[str, float], path: Path) -> None:
    """Draw one bar per fault, cut where each arrow was reached."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(12, 1.4 + 0.8 * len(faults)), layout="constrained")
    colors = pyplot.get_cmap("viridis_r")
    for row, fault in enumerate(faults):
        reached = seconds_since(injected.get(fault.get("node", ""), 0.0), fault.get("times") or {})
        left = 0.0
        for index, arrow in enumerate(ARROWS):
            if arrow not in reached or reached[arrow] < left:
                continue
            axes.barh(
                row,
                reached[arrow] - left,
                left=left,
                color=colors(index / len(ARROWS)),
                label=arrow if row == 0 else None,
            )
            left = reached[arrow]
        axes.text(left, row, f" {left:.0f} s", va="center")
    axes.set(
        xlabel="seconds after the fault was injected",
        title="From fault to next step (GPUs simulated, training on the CPU)",
    )
    axes.set_yticks(range(len(faults)), [f"{f.get('cause')} on {f.get('node')}" for f in faults])
    axes.invert_yaxis()
    axes.legend(ncols=len(ARROWS), loc="upper center", bbox_to_anchor=(0.5, -0.25), title="reached")
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def timeline_text(faults: Sequence[dict[str, Any]], injected: dict[str, float]) -> str:
    """Return the fault timeline as a table, seconds after injection."""
    head = f"{'fault':<18}{'node':<8}" + "".join(f"{a:>13}" for a in ARROWS) + f"{'steps lost':>13}"
    rows = [head]
    for fault in faults:
        reached = seconds_since(injected.get(fault.get("node", ""), 0.0), fault.get("times") or {})
        cells = "".join(f"{reached[a]:>11.1f} s" if a in reached else f"{'-':>13}" for a in ARROWS)
        rows.append(f"{fault.get('cause', '?'):<18}{fault.get('node', '?'):<8}{cells}{fault.get('stepsLost', '-'):>13}")
    return "\n".join(rows)


def write(
    folder: Path,
    result: dict[str, Any],
    steps: Sequence[StepSeen],
    faults: Sequence[dict[str, Any]],
    injected: dict[str, float],
) -> None:
    """Write the summary, the raw steps and both pictures into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "steps.jsonl").write_text(
        "".join(json.dumps({"step": s.step, "lossHex": s.loss_hex, "time": s.time, "pod": s.pod}) + "\n" for s in steps)
    )
    draw_loss(steps, faults, folder / "loss.png")
    draw_timeline(faults, injected, folder / "timeline.png")
