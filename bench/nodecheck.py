"""The node check in simulation: does it name every bad node, and no good one?

    python -m bench.nodecheck [--random 2000] [--output bench/results/nodecheck.json]

Up to 12 nodes: every pairing of the first round with every choice of faults. To 1,024: the check's own pairing, faults
in random places. A quarter of the nodes at most is bad; measurements scatter by a fifth.
"""

import argparse
import enum
import itertools
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from bench import record
from internlm2_spec import nodecheck
from internlm2_spec.nodecheck import Check, Ended, Failure, Local, Meeting, Part, State

Pairs = Sequence[tuple[str, ...]]

FLOPS: Final = 1e12
BUS: Final = 1e10
SCATTER: Final = 0.2
WORSE: Final = 5.0


class Fault(enum.StrEnum):
    """What is wrong with a node of the simulation."""

    SLOW_COMPUTE = "slow compute"
    SLOW_NIC = "slow NIC"
    BROKEN_COLLECTIVE = "broken collective"
    HANG = "hang"
    HANG_ALONE = "hang alone"
    WRONG_BYTES = "wrong bytes"


# The rest shows before anybody has met, each in its own measurement.
MEETING_FAULTS: Final = (Fault.SLOW_COMPUTE, Fault.SLOW_NIC, Fault.BROKEN_COLLECTIVE, Fault.HANG)


def simulate(
    nodes: Sequence[str], faults: Mapping[str, Fault], *, seed: int = 0, first: Pairs | None = None,
    domains: Mapping[str, str] | None = None,
) -> Check:  # fmt: skip
    """Return a whole check of `nodes` with `faults`, the first round as `first` pairs them or as the check does."""
    chance = random.Random(seed)
    measured = tuple(_local(node, faults.get(node), chance) for node in nodes)
    check = Check(tuple(nodes), measured, domains=domains or {})
    pairs: Pairs
    while pairs := nodecheck.next_round(check):
        if first is not None and not check.rounds:
            pairs = without(first, kept=set(itertools.chain(*pairs)))
        check = check.after(_meet(pair, faults, chance) for pair in pairs)
    return check


def without(pairs: Pairs, *, kept: set[str]) -> Pairs:
    """Return pairs of those who are left: who failed alone meets nobody, and whom that leaves alone meets the next."""
    left = [tuple(node for node in pair if node in kept) for pair in pairs]
    whole, alone = [pair for pair in left if len(pair) > 1], [node for pair in left if len(pair) == 1 for node in pair]
    whole += [tuple(alone[i : i + 2]) for i in range(0, len(alone) - 1, 2)]
    return whole if len(alone) % 2 == 0 else [*whole[:-1], (*whole[-1], alone[-1])]


def _local(node: str, fault: Fault | None, chance: random.Random) -> Local:
    if fault is Fault.HANG_ALONE:
        return Local(node, failures=(Failure(Part.COMPUTE, Ended.HUNG),))
    rate = FLOPS * chance.uniform(1 - SCATTER, 1 + SCATTER) / (WORSE if fault is Fault.SLOW_COMPUTE else 1)
    return Local(node, "cpu", compute=rate, memory=BUS, wrong_bytes=3 if fault is Fault.WRONG_BYTES else 0)


def _meet(members: tuple[str, ...], faults: Mapping[str, Fault], chance: random.Random) -> Meeting:
    there = {faults[node] for node in members if node in faults}
    if Fault.HANG in there:
        return Meeting(members, Ended.HUNG)
    if Fault.BROKEN_COLLECTIVE in there:
        return Meeting(members, Ended.FAILED)
    slowest = WORSE if Fault.SLOW_NIC in there else 1
    return Meeting(members, bus=BUS * chance.uniform(1 - SCATTER, 1 + SCATTER) / slowest)


def named(check: Check) -> set[str]:
    """Return the nodes that are found slow or broken."""
    return {v.node for v in nodecheck.report(check).verdicts if v.state in (State.SLOW, State.BROKEN)}


def choices(nodes: Sequence[str], kinds: Sequence[Fault] = MEETING_FAULTS) -> Iterator[dict[str, Fault]]:
    """Yield every way in which up to a quarter of the nodes can be bad."""
    for count in range(len(nodes) // 4 + 1):
        for bad in itertools.combinations(nodes, count):
            for faults in itertools.product(kinds, repeat=count):
                yield dict(zip(bad, faults, strict=True))


def pairings(nodes: Sequence[str]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield every way to make pairs of the nodes, with one triple where the count is odd."""
    if len(nodes) % 2:
        for triple in itertools.combinations(nodes, 3):
            for rest in pairings([node for node in nodes if node not in triple]):
                yield (*rest, triple)
    elif nodes:
        one, *others = nodes
        for other in others:
            for rest in pairings([node for node in others if node != other]):
                yield ((one, other), *rest)
    else:
        yield ()


def every_pairing(count: int) -> Iterator[tuple[dict[str, Fault], Pairs]]:
    """Yield faults and first rounds of `count` nodes: all there are, up to the names of the nodes.

    A pairing with the faults in other places is another pairing with these faults and the nodes renamed, so the bad
    nodes are always the last of the list: they, and not the good, are then the last whom a known-good node serves.
    """
    nodes = names(count)
    for pairs in pairings(nodes):
        for bad in range(count // 4 + 1):
            for faults in itertools.product(MEETING_FAULTS, repeat=bad):
                yield dict(zip(nodes[count - bad :], faults, strict=True)), pairs


def somewhere(seed: int) -> tuple[list[str], dict[str, Fault]]:
    """Return up to 1,024 nodes, and faults in random places of them."""
    chance = random.Random(seed)
    nodes = names(chance.randint(4, 1024))
    bad = chance.sample(nodes, chance.randint(0, len(nodes) // 4))
    return nodes, {node: chance.choice(list(Fault)) for node in bad}


def names(count: int) -> list[str]:
    """Return names in the order of their numbers."""
    return [f"n{i:04}" for i in range(count)]


def main() -> int:
    """Simulate, print and write what was found; 1 if a node was missed or wronged."""
    parser = argparse.ArgumentParser(prog="python -m bench.nodecheck", description=__doc__.split("\n")[0])
    parser.add_argument("--largest", type=int, default=12, help="nodes up to which every pairing is tried (default 12)")
    parser.add_argument("--random", type=int, default=2000, help="checks of 4 to 1,024 nodes (default 2000)")
    record.add_output(parser, "nodecheck")
    options = parser.parse_args()
    started, results = time.process_time(), dict[str, Any]()
    for count in range(2, options.largest + 1):
        tried = ((f, simulate(names(count), f, seed=i, first=p)) for i, (f, p) in enumerate(every_pairing(count)))
        results[f"every pairing of {count}"] = tally(tried)
        print(f"{count} nodes: {results[f'every pairing of {count}']}", file=sys.stderr, flush=True)
    places = (
        (faults, simulate(nodes, faults, seed=i)) for i in range(options.random) for nodes, faults in [somewhere(i)]
    )
    results["4 to 1,024 nodes, random places"] = tally(places)
    print(json.dumps(results, indent=1))
    seconds = {"cpuSeconds": round(time.process_time() - started, 1)}
    record.write(options.output, "bench.nodecheck", {"checks": results} | seconds)
    return int(any(each["missed"] or each["wronged"] for each in results.values()))


def tally(checks: Iterator[tuple[dict[str, Fault], Check]]) -> dict[str, Any]:
    """Count checks, bad nodes, those that were missed, good ones that were named, and rounds."""
    count, rounds = Counter[str](), Counter[int]()
    for faults, check in checks:
        found = named(check)
        count.update(checks=1, bad=len(faults), missed=len(faults.keys() - found), wronged=len(found - faults.keys()))
        rounds[len(check.rounds)] += 1
    return {name: count[name] for name in ("checks", "bad", "missed", "wronged")} | {
        "rounds": dict(sorted(rounds.items()))
    }


if __name__ == "__main__":
    sys.exit(main())
