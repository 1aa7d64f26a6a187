"""Who meets whom in a node check. Names only: what meetings say is `nodecheck`'s to judge."""

from collections.abc import Mapping, Sequence

Pairs = tuple[tuple[str, ...], ...]


def first_round(nodes: Sequence[str], domains: Mapping[str, str]) -> Pairs:
    """Return pairs of neighbours, with one triple where the count is odd; of different domains where these are known.

    As many pairs cross domains as can: in the order of their domains a node and the one half a turn on share a domain
    only where that holds more than half of all.
    """
    if len(nodes) < 2:
        return ()
    order = list(nodes)
    if len({domains.get(node) for node in nodes}) > 1:
        order.sort(key=lambda node: domains.get(node, ""))
        half = len(order) // 2
        order = [node for pair in zip(order[:half], order[half : 2 * half], strict=True) for node in pair] + (
            order[2 * half :]
        )
    pairs = [tuple(order[i : i + 2]) for i in range(0, len(order) - 1, 2)]
    if len(order) % 2:
        pairs[-1] = (*pairs[-1], order[-1])
    return tuple(pairs)


def with_good(suspects: Sequence[str], good: Sequence[str], domains: Mapping[str, str], met: Pairs) -> Pairs:
    """Return suspects with a known-good node each: one of their domain before others, a stranger before others.

    There may be fewer good nodes than suspects: the rest has to wait.
    """
    known, free, pairs = set(map(frozenset, met)), list(good), []
    for suspect in suspects[: len(good)]:

        def apart(node: str, suspect: str = suspect) -> tuple[bool, bool]:
            near = suspect in domains and domains[suspect] == domains.get(node)
            return not near, frozenset((suspect, node)) in known

        partner = min(free, key=apart)
        free.remove(partner)
        pairs.append((suspect, partner))
    return tuple(pairs)


def strangers(suspects: Sequence[str], met: Pairs) -> Pairs:
    """Return pairs of suspects that have not met as a pair: nobody is known to be good yet."""
    known, free, pairs = set(map(frozenset, met)), list(suspects), []
    while free:
        one = free.pop(0)
        if other := next((node for node in free if frozenset((one, node)) not in known), None):
            free.remove(other)
            pairs.append((one, other))
    return tuple(pairs)
