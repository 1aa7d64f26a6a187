"""Which copies in memory make a whole state, and how a rank that lost its own gets it from a peer."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

from internlm2_trainer.checkpoint.exchange import Exchange
from internlm2_trainer.checkpoint.memory import Seal

# A peer's copy travels in pieces of this size, each through the device where the group's backend wants it.
SENT_BYTES: Final = 2**25


@dataclass(frozen=True, slots=True)
class Held:
    """A copy that some rank holds: step and mark of the save, and the key of the boxes in it."""

    step: int
    mark: str
    key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Which save to resume from, and for each rank the one whose copy it takes: itself, or a peer."""

    step: int
    mark: str
    sources: tuple[int, ...]
    extra: dict[str, Any]

    def seal_of(self, seals: Mapping[int, Seal], key: str) -> tuple[int, Seal] | None:
        """Return (place, seal) of a rank's own copy of this save and key."""
        mine = [(p, s) for p, s in seals.items() if (s.step, s.mark, s.key) == (self.step, self.mark, key)]
        return mine[0] if mine else None


def newest(held: Sequence[Sequence[Held]], needs: Sequence[str]) -> tuple[int, str, tuple[int, ...]] | None:
    """Return step, mark and each rank's source for the newest save of which every rank's key is held; else None.

    `held` is what each rank holds, `needs` the key that each rank must have. A rank's own copy comes first; peers
    that hold the same share the ranks that lack it.
    """
    holders: dict[tuple[int, str], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for rank, copies in enumerate(held):
        for copy in copies:
            holders[copy.step, copy.mark][copy.key].append(rank)
    for (step, mark), by_key in sorted(holders.items(), reverse=True):
        if all(key in by_key for key in needs):
            sources = tuple(
                rank if rank in by_key[key] else by_key[key][rank % len(by_key[key])] for rank, key in enumerate(needs)
            )
            return step, mark, sources
    return None


def agree(
    exchange: Exchange,
    *,
    rank: int,
    world: int,
    seals: Mapping[int, Seal],
    need: str,
    sound: Callable[[int, Seal], bool],
) -> tuple[Plan, tuple[str, ...]] | None:
    """Agree on the newest save that memory holds in full, with each rank's key; None when there is none.

    Sources hash what they would give; a copy that is not sound is left out and the ranks agree anew.
    """
    mine = dict(seals)
    for turn in itertools.count():
        copies = [[s.step, s.mark, s.key, s.extra] for s in mine.values()]
        exchange.post(f"held/{turn}/{rank}", {"need": need, "copies": copies})
        if rank == 0:
            exchange.post(f"plan/{turn}", _planned(_all(exchange, f"held/{turn}", world)))
        answer = exchange.collect([f"plan/{turn}"])[0]
        if answer is None:
            return None
        plan = Plan(answer["step"], answer["mark"], tuple(answer["sources"]), answer["extra"])
        given = {answer["needs"][r] for r, source in enumerate(plan.sources) if source == rank}
        bad = [p for key in given if (own := plan.seal_of(mine, key)) and not sound(*own) for p in [own[0]]]
        exchange.post(f"sound/{turn}/{rank}", not bad)
        if rank == 0:
            exchange.post(f"outcome/{turn}", all(_all(exchange, f"sound/{turn}", world)))
        if exchange.collect([f"outcome/{turn}"])[0]:
            return plan, tuple(answer["needs"])
        mine = {place: seal for place, seal in mine.items() if place not in bad}
    raise AssertionError("counting does not end")


def transfer(
    plan: Plan,
    needs: Sequence[str],
    rank: int,
    *,
    copy_of: Callable[[str], torch.Tensor],
    into: torch.Tensor,
    device: torch.device,
) -> None:
    """Send this rank's copies to the peers that lack them, and receive its own into `into` if it lacks it.

    All ranks walk the pairs in one order, so that no two wait for each other. Bytes, [size] uint8, on the CPU.
    """
    for receiver, source in enumerate(plan.sources):
        if source == receiver or rank not in (source, receiver):
            continue
        buffer = copy_of(needs[receiver]) if rank == source else into
        for start in range(0, len(buffer), SENT_BYTES):
            part = buffer[start : start + SENT_BYTES]
            if rank == source:
                dist.send(part.to(device), receiver)
            else:
                landed = torch.empty_like(part, device=device)
                dist.recv(landed, source)
                part.copy_(landed)


def _planned(answers: list[dict[str, Any]]) -> dict[str, Any] | None:
    needs = [answer["need"] for answer in answers]
    held = [[Held(step, mark, key) for step, mark, key, _ in answer["copies"]] for answer in answers]
    found = newest(held, needs)
    if found is None:
        return None
    step, mark, sources = found
    extra = next(c[3] for c in answers[sources[0]]["copies"] if (c[0], c[1]) == (step, mark))
    return {"step": step, "mark": mark, "sources": sources, "needs": needs, "extra": extra}


def _all(exchange: Exchange, prefix: str, world: int) -> list[Any]:
    """Collect every rank's answer on rank 0, and forget them."""
    names = [f"{prefix}/{rank}" for rank in range(world)]
    answers = exchange.collect(names)
    exchange.forget(names)
    return answers
