"""Which checkpoint a run resumes from: the newest one that every byte of was read and found as listed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from internlm2_spec.contract import step_prefix
from internlm2_spec.manifest import Manifest, published
from internlm2_trainer.checkpoint import fence, verify
from internlm2_trainer.checkpoint.exchange import Exchange
from internlm2_trainer.observe.output import say
from internlm2_trainer.storage import Store, StoreUnavailable, retrying


@dataclass(frozen=True, slots=True)
class Choice:
    """The step to load, None when there is none, and the newer ones that are damaged, with the reason.

    `known` is (step, seconds since the epoch) of the newest step that was not read because it is not newer
    than what the ranks have already.
    """

    manifest: Manifest | None
    passed_over: tuple[tuple[int, str], ...]
    known: tuple[int, float] | None = None


def choose(
    store: Store, stage: str, *, exchange: Exchange, rank: int, world: int, above: int = -1, before: int | None = None
) -> Choice:
    """Agree on the newest verified step above `above`; every rank calls this and hashes its part of the objects.

    Steps from `before` on are no choice.

    Rank 0 offers one step after the other; each rank answers what is wrong with its share of it.
    """
    passed_over: list[tuple[int, str]] = []
    offers = _offers(store, stage, above, before) if rank == 0 else iter(())
    for turn in itertools.count():
        if rank == 0:
            exchange.post(f"offer/{turn}", next(offers, None))
        offer = exchange.collect([f"offer/{turn}"])[0]
        if offer is None:
            return Choice(None, tuple(passed_over))
        step, reason, manifest = int(offer["step"]), offer["reason"], None
        if step <= above:
            return Choice(None, tuple(passed_over), known=(step, float(offer["time"])))
        if reason is None:
            manifest = verify.read_manifest(store, stage, step)
            share = verify.damage(store, step_prefix(stage, step), manifest.objects[rank::world])
            reason = _outcome(exchange, turn, share, rank=rank, world=world)
        if reason is None:
            return Choice(manifest, tuple(passed_over))
        passed_over.append((step, reason))
        if rank == 0:
            say(event="checkpoint-passed-over", stage=stage, step=step, reason=reason)
    raise AssertionError("counting does not end")


def _outcome(exchange: Exchange, turn: int, share: str | None, *, rank: int, world: int) -> str | None:
    """Return the first damage that any rank found; only rank 0 reads all the answers."""
    exchange.post(f"verdict/{turn}/{rank}", share)
    if rank == 0:
        names = [f"verdict/{turn}/{other}" for other in range(world)]
        found = [reason for reason in exchange.collect(names) if reason is not None]
        exchange.post(f"outcome/{turn}", found[0] if found else None)
        exchange.forget(names)
    outcome: str | None = exchange.collect([f"outcome/{turn}"])[0]
    return outcome


def _offers(store: Store, stage: str, above: int, before: int | None) -> Iterator[dict[str, Any]]:
    """Yield each published step below `before`, newest first, with what a listing and its manifest show to be wrong.

    The last one is the first that is whole and not above `above`. A storage that is away has nothing newer than
    what the ranks hold already, as far as anybody can tell; without such a thing it is waited for, then raised.
    """
    try:
        listed = verify.sizes(store, stage)
        held = retrying(lambda: fence.read(store))
    except StoreUnavailable as error:
        if above < 0:
            raise
        say(event="checkpoint-storage-away", reason=str(error))
        return
    for step in published(listed, stage):
        if before is not None and step >= before:
            continue
        manifest, reason = verify.inspect(store, stage, step, listed=listed, fence=held)
        if step > above:
            yield {"step": step, "reason": reason}
        elif reason is None and manifest is not None:
            yield {"step": step, "reason": None, "time": manifest.time}
            return
