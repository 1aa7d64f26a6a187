"""The longest sequence that fits: doubling until one does not, then bisection."""

from collections.abc import Callable


def longest(fits: Callable[[int], bool], *, start: int, limit: int) -> int:
    """Return a multiple of `start` up to `limit` that fits, within an eighth of the longest; 0 if `start` does not.

    `limit` is a multiple of `start`. Each length is tried once at most.
    """
    if not fits(start):
        return 0
    low, high = start, limit + start  # fits; does not
    while 2 * low < high and high > limit:
        low, high = (2 * low, high) if fits(2 * low) else (low, 2 * low)
    while high - low > max(start, low // 8):
        middle = (low + high) // 2 // start * start
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
