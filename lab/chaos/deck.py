"""Which faults there are for a run, and in which order a seed deals them. Pure: the same seed is the same run."""

import enum
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from lab.settings import LabError


class Hits(enum.StrEnum):
    """Who is hit."""

    FIRST = "rank 0"  # the member with rank 0, which hosts the rendezvous store
    LAST = "last rank"
    NOBODY = "a server"


@dataclass(frozen=True, slots=True)
class Card:
    """One kind of disturbance: a fault of `lab.faults.KINDS` with whom it hits and what it should come to.

    `seconds` bounds how long it lasts (None: it heals by itself, or its node is repaired). `recorded`: the operator
    has to record it. `cordoned`: it has to cordon the node; `guilty`: it may. `repaired`: a data centre would replace
    or mend the machine.
    """

    fault: str
    hits: Hits = Hits.NOBODY
    seconds: tuple[float, float] | None = None
    recorded: bool = False
    cordoned: bool = False
    guilty: bool = False
    repaired: bool = False
    xid: int | None = None
    by: int | None = None  # seconds that a clock jumps


def _node(fault: str, hits: Hits = Hits.LAST, *, xid: int | None = None) -> Card:
    return Card(fault, hits, recorded=True, cordoned=True, guilty=True, repaired=True, xid=xid)


DECK: Final[Mapping[str, Card]] = {
    "process-kill": Card("process-kill", Hits.LAST, recorded=True),
    "process-kill-rank0": Card("process-kill", Hits.FIRST, recorded=True),
    "process-stop": Card("process-stop", Hits.LAST, seconds=(3.0, 12.0)),
    "agent-kill": Card("agent-kill", Hits.LAST, recorded=True),
    "operator-kill": Card("operator-kill"),
    "node-kill": _node("node-kill"),
    "node-kill-rank0": _node("node-kill", Hits.FIRST),
    # Kubernetes calls a node silent after 8 s here.
    "partition": Card(
        "partition", Hits.LAST, seconds=(16.0, 24.0), recorded=True, cordoned=True, guilty=True, repaired=True
    ),
    "partition-short": Card("partition", Hits.LAST, seconds=(1.0, 3.0), guilty=True, repaired=True),
    "xid-79": _node("xid", xid=79),
    "xid-79-rank0": _node("xid", Hits.FIRST, xid=79),
    "xid-31": Card("xid", Hits.LAST, seconds=(5.0, 10.0), xid=31),  # the program's: its node stays
    "xid-79-log": _node("xid-log", xid=79),
    "gpu-lost": _node("gpu-lost"),
    "gpu-unhealthy": Card("gpu-unhealthy", Hits.LAST, seconds=(20.0, 40.0), guilty=True, repaired=True),
    "clock-back": Card("clock-jump", Hits.LAST, seconds=(5.0, 20.0), by=-3600),
    "clock-ahead": Card("clock-jump", Hits.FIRST, seconds=(5.0, 20.0), by=3600),
    "disk-full": Card("disk-full", Hits.LAST, seconds=(10.0, 30.0), guilty=True, repaired=True),
    "s3-down": Card("s3-down", seconds=(3.0, 20.0)),
    "s3-slow": Card("s3-slow", seconds=(10.0, 25.0)),
    "s3-corrupt": Card("s3-corrupt", seconds=(10.0, 25.0)),
    "bit-rot": Card("bit-rot"),
    "prometheus-down": Card("prometheus-down", seconds=(5.0, 20.0)),
    "apiserver-restart": Card("apiserver-kill", seconds=(1.0, 10.0)),
    "dns-down": Card("dns-down", seconds=(3.0, 15.0)),
}


@dataclass(frozen=True, slots=True)
class Planned:
    """One fault to come. `pause` seconds after the job settled, or, `early`, after the fault before it."""

    number: int
    name: str
    early: bool
    pause: float
    seconds: float | None
    gpu: int

    @property
    def card(self) -> Card:
        return DECK[self.name]


# So many come while the job recovers from the one before.
EARLY: Final = 0.25


def deal(seed: int, count: int, names: Sequence[str] = tuple(DECK), *, gpus: int = 2) -> tuple[Planned, ...]:
    """Return the run of a seed: shuffled decks one after the other, so that each name comes about equally often.

    Raises:
        LabError: a name is not in the deck.
    """
    if unknown := [name for name in names if name not in DECK]:
        raise LabError(f"--kinds: {unknown[0]!r} is not known; use some of {', '.join(DECK)}")
    chance = random.Random(f"chaos {seed}")
    dealt: list[str] = []
    while len(dealt) < count:
        deck = list(names)
        chance.shuffle(deck)
        dealt += deck
    plan: list[Planned] = []
    for number, name in enumerate(dealt[:count], start=1):
        chance = random.Random(f"chaos {seed}, fault {number}")  # of its own: a longer run begins like a shorter one
        bounds = DECK[name].seconds
        before = DECK[plan[-1].name] if plan else None
        plan.append(
            Planned(
                number,
                name,
                early=chance.random() < EARLY and before is not None and _together(before, DECK[name]),
                pause=round(chance.uniform(0.0, 3.0), 2),
                seconds=None if bounds is None else round(chance.uniform(*bounds), 1),
                gpu=chance.randrange(gpus),
            )
        )
    return tuple(plan)


def _together(before: Card, card: Card) -> bool:
    """Say whether a card may come early: two machines at once would leave too few, and victims are asked for by API."""
    return not (before.repaired and card.repaired) and before.fault not in ("apiserver-kill", card.fault)
