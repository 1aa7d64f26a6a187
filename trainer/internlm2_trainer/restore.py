"""Which checkpoint a run resumes from: the newest one that every byte of was read and found as listed."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.manifest import Manifest, lacking, parse_manifest, published
from internlm2_trainer import shards
from internlm2_trainer.exchange import Exchange
from internlm2_trainer.output import say
from internlm2_trainer.storage import Missing, Store, retrying


@dataclass(frozen=True, slots=True)
class Choice:
    """The step to load, None when there is none, and the newer ones that are damaged, with the reason."""

    manifest: Manifest | None
    passed_over: tuple[tuple[int, str], ...]


def choose(store: Store, stage: str, *, exchange: Exchange, rank: int, world: int) -> Choice:
    """Agree on the newest verified step; every rank calls this and hashes its part of the objects.

    Rank 0 offers one step after the other; each rank answers what is wrong with its share of it.
    """
    passed_over: list[tuple[int, str]] = []
    offers = _offers(store, stage) if rank == 0 else iter(())
    for turn in itertools.count():
        if rank == 0:
            exchange.post(f"offer/{turn}", next(offers, None))
        offer = exchange.collect([f"offer/{turn}"])[0]
        if offer is None:
            return Choice(None, tuple(passed_over))
        step = int(offer["step"])
        manifest, reason = None, offer["reason"]
        if reason is None:
            manifest = parse_manifest(_text(store, stage, step))
            share = shards.damage(store, step_prefix(stage, step), manifest.objects[rank::world])
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


def _offers(store: Store, stage: str) -> Iterator[dict[str, Any]]:
    """Yield each published step, newest first, with what a listing and its manifest show to be wrong."""
    sizes = {entry.key: entry.size for entry in retrying(lambda: store.list(f"{stage}/"))}
    for step in published(sizes, stage):
        yield {"step": step, "reason": _reason(store, stage, step, sizes)}


def _reason(store: Store, stage: str, step: int, sizes: dict[str, int]) -> str | None:
    try:
        manifest = parse_manifest(_text(store, stage, step))
    except Missing:
        return f"{MANIFEST_NAME} is missing"
    except ValueError as error:
        return f"{MANIFEST_NAME}: {error}"
    if (manifest.stage, manifest.step) != (stage, step):
        return f"{MANIFEST_NAME} is of {manifest.stage} step {manifest.step}"
    return lacking(manifest, sizes, step_prefix(stage, step))


def _text(store: Store, stage: str, step: int) -> str:
    key = f"{step_prefix(stage, step)}/{MANIFEST_NAME}"
    return retrying(lambda: store.get(key)).body.decode()
