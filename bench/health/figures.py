"""Samples as figures: the distribution of each arrow, counted from the fault, beside the targets."""

from collections.abc import Mapping, Sequence
from typing import Any

from bench.operator.gauge import spread

Sample = Mapping[str, float]
"""Seconds after the fault at which each arrow was reached; an arrow that was not seen is absent."""


def against(samples: Sequence[Sample], order: Sequence[str], targets: Mapping[str, float]) -> dict[str, Any]:
    """Return the distribution of each arrow that was ever reached or has a target, in this order.

    `targets` are bounds of the 95th percentile by arrow. An `n` below `runs` says that some never got there.
    """
    reached = [arrow for arrow in order if arrow in targets or any(arrow in s for s in samples)]
    return {
        "targets": dict(targets),
        "runs": len(samples),
        "secondsAfterFault": {arrow: spread([s[arrow] for s in samples if arrow in s]) for arrow in reached},
        "samples": [dict(sample) for sample in samples],
    }
