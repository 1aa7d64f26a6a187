"""Which source a sample comes from: shares that are kept at every place of the stream, without chance."""

import heapq
import math
from collections.abc import Iterator, Sequence

import numpy as np

from internlm2_trainer.data.order import Indices


class Mixture:
    """Sources by whole-number weights, as an order of sources that repeats after the sum of the weights.

    After any number of samples each source has given its exact share, less than one sample more or fewer;
    after each period exactly it. Nothing depends on a seed or a number of ranks.
    """

    def __init__(self, weights: Sequence[int]) -> None:
        divisor = math.gcd(*weights)
        shares = [weight // divisor for weight in weights]
        period = list(_period(shares))
        self._shares = np.array(shares, dtype=np.int64)
        self._sources = np.array([source for source, _ in period], dtype=np.int64)
        self._ordinals = np.array([ordinal for _, ordinal in period], dtype=np.int64)

    def places(self, positions: Indices) -> tuple[Indices, Indices]:
        """Return each position's source, and its place (from 0) in the stream of that source alone."""
        periods, within = np.divmod(positions, len(self._sources))
        sources = self._sources[within]
        return sources, periods * self._shares[sources] + self._ordinals[within]


def _period(shares: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield (source, ordinal) for each place of a period: earliest deadline first.

    Sample k of a source with share w of T may come from place floor(k T / w) on and must before
    ceil((k + 1) T / w): the windows of a proportionately fair schedule, which always exists and which
    this rule finds (Baruah, Cohen, Plaxton and Varvel, Proportionate progress, 1996).
    """
    total = sum(shares)
    coming = [(0, source, 0) for source in range(len(shares))]  # (first place, source, ordinal)
    ready: list[tuple[int, int, int]] = []  # (deadline, source, ordinal)
    for place in range(total):
        while coming and coming[0][0] <= place:
            _, source, ordinal = heapq.heappop(coming)
            deadline = -(-(ordinal + 1) * total // shares[source])
            heapq.heappush(ready, (deadline, source, ordinal))
        _, source, ordinal = heapq.heappop(ready)
        yield source, ordinal
        heapq.heappush(coming, ((ordinal + 1) * total // shares[source], source, ordinal + 1))
