"""Which keys each query sees when documents are packed and the sequence is split over a ring of ranks.

Documents lie one after the other, so of two chunks of a sequence the later one sees of the earlier only
the document that reaches from one into the other: a rectangle. Inside a chunk it is a triangle for each
document. No mask ever exists, and what no query sees costs nothing.

Ranks hold chunks in a zigzag: of 2n chunks rank r of n has number r and number 2n - 1 - r, so that every
rank computes the same share of a causal triangle (The Llama 3 Herd of Models, arXiv 2407.21783, 3.3.2).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """Queries of `rows` that see keys of the same rows: all of them, or each those up to its own place.

    `queries` count in the sequence of the rank that computes, `keys` in that of the rank they come from.
    """

    rows: slice
    queries: slice
    keys: slice
    causal: bool


class Plan:
    """What one batch leaves for this rank to compute, by steps of its ring: first its own keys, then its predecessor's.

    Not a dataclass, which a compiler would open and guard field by field: it differs from batch to batch.
    """

    def __init__(self, steps: tuple[tuple[Span, ...], ...], firsts: list[list[int]], length: int, place: torch.device):
        self.steps = steps
        self._firsts = firsts
        self._length = length
        self._place = place

    @cached_property
    def bounds(self) -> tuple[Tensor, int]:
        """Where documents begin in all rows laid end to end, the end of the last included (int32), and the longest."""
        rows = [row * self._length + first for row, firsts in enumerate(self._firsts) for first in firsts]
        bounds = [*rows, len(self._firsts) * self._length]
        longest = max(after - first for first, after in pairwise(bounds))
        return torch.tensor(bounds, dtype=torch.int32, device=self._place), longest


def chunks(rank: int, size: int) -> tuple[int, ...]:
    """Return which chunks of a sequence a rank of a ring holds: the only one, or two of 2 * size."""
    return (0,) if size == 1 else (rank, 2 * size - 1 - rank)


def places(sequence_length: int, *, ring: tuple[int, int], ulysses: tuple[int, int]) -> Tensor:
    """Return which places of a whole sequence a rank holds, in its order, [S / (ring * ulysses)] int64.

    `ring` and `ulysses` are (rank, size); what a rank of the ring has is cut into one piece for each rank
    of the other group.
    """
    held = chunks(*ring)
    chunk = sequence_length // (ring[1] * len(held))
    mine = torch.cat([torch.arange(number * chunk, (number + 1) * chunk) for number in held])
    return mine.chunk(ulysses[1])[ulysses[0]]


def plan(documents: Tensor, *, rank: int, size: int) -> Plan:
    """Plan the attention of rank `rank` in a ring of `size` over whole sequences.

    documents: [B, S] int64, the number of each token's document. Reading it is one wait for the device.
    """
    batch, length = documents.shape
    firsts = [[0] for _ in range(batch)]
    for row, place in (documents[:, 1:] != documents[:, :-1]).nonzero().tolist():
        firsts[row].append(place + 1)
    steps = tuple(_step(firsts, length, rank, (rank - step) % size, size) for step in range(size))
    return Plan(steps, firsts, length, documents.device)


def _step(firsts: Sequence[list[int]], length: int, rank: int, source: int, size: int) -> tuple[Span, ...]:
    held, theirs = chunks(rank, size), chunks(source, size)
    chunk = length // (size * len(held))
    by_row = [
        [
            (query_at * chunk - query * chunk, key_at * chunk - key * chunk, *seen)
            for query_at, query in enumerate(held)
            for key_at, key in enumerate(theirs)
            for seen in visible(row, query * chunk, key * chunk, chunk)
        ]
        for row in firsts
    ]
    alike = all(row == by_row[0] for row in by_row)
    rows = [(slice(None), by_row[0])] if alike else [(slice(i, i + 1), row) for i, row in enumerate(by_row)]
    spans = [
        Span(row, _moved(queries, by_queries), _moved(keys, by_keys), causal)
        for row, seen in rows
        for by_queries, by_keys, queries, keys, causal in seen
    ]
    # Triangles first: together they hold every query once, and so begin what rectangles are merged into.
    return tuple(sorted(spans, key=lambda span: not span.causal))


def visible(firsts: list[int], query: int, key: int, chunk: int) -> Iterator[tuple[range, range, bool]]:
    """Yield the queries from place `query` and the keys from `key` that see each other, chunk by chunk of `chunk`.

    `firsts` are the first places of a row's documents. The third value says whether the pair is a triangle.
    """
    if key > query:
        return
    inside = [first for first in firsts if query < first < query + chunk]
    if key == query:
        bounds = [query, *inside, query + chunk]
        yield from ((range(a, b), range(a, b), True) for a, b in pairwise(bounds))
        return
    document = max(first for first in firsts if first <= query)
    if document < key + chunk:
        yield range(query, inside[0] if inside else query + chunk), range(max(document, key), key + chunk), False


def _moved(places: range, by: int) -> slice:
    return slice(places.start + by, places.stop + by)
