"""How often something may be done: a token bucket as a value."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Bucket:
    """`tokens` at monotonic second `at`; `per_second` come back each second, up to `burst`.

    What is made whole or not at all may take more than there are: the debt is paid before anybody else's turn. So
    the largest never starves behind small ones.
    """

    burst: float
    per_second: float
    tokens: float
    at: float

    def taken(self, count: int, at: float) -> "Bucket":
        """Return the bucket after `count` were taken; the caller has waited for its turn."""
        return replace(self, tokens=self._left(at) - count, at=at)

    def hold(self, at: float) -> float:
        """Return for how many seconds from `at` the next token is not there yet, 0 when it is."""
        return max(0.0, (1.0 - self._left(at)) / self.per_second)

    def _left(self, at: float) -> float:
        return min(self.burst, self.tokens + max(0.0, at - self.at) * self.per_second)


def full(burst: float, per_second: float, at: float) -> Bucket:
    """Return a bucket that nobody has taken from."""
    return Bucket(burst, per_second, tokens=burst, at=at)
