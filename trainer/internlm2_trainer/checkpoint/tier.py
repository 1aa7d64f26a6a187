"""One rank's part in the memory tier: what it holds, what it takes after a restart, what it copies and seals."""

from collections.abc import Mapping
from typing import Any

import torch

from internlm2_trainer.checkpoint import recall, region, staging
from internlm2_trainer.checkpoint.exchange import Exchange
from internlm2_trainer.checkpoint.memory import PLACES, Memory, Seal, digest
from internlm2_trainer.checkpoint.recall import Plan
from internlm2_trainer.checkpoint.shards import Staged
from internlm2_trainer.checkpoint.staging import Arrangement
from internlm2_trainer.observe.output import say


class Tier:
    """The memory tier as one rank sees it. A rank without `memory` takes part, and holds nothing.

    Places are told apart by age here: a copy to place 0 after a restart overwrites the older of the two, on
    every rank, so that the newest stays whole everywhere until the next one is.
    """

    def __init__(self, memory: Memory | None, *, stage: str, attempt: int, rank: int, world: int) -> None:
        self._memory = memory
        self._stage, self._attempt, self._rank, self._world = stage, attempt, rank, world
        self._first = 0  # the place in memory that place 0 means
        self._needs: tuple[str, ...] = ()
        self._arrangement: Arrangement | None = None
        self.newest: int | None = None  # newest step of a whole copy on this rank

    def recall(
        self, exchange: Exchange, state: Mapping[str, torch.Tensor], *, before: int | None = None
    ) -> Plan | None:
        """Agree with the other ranks on the newest step below `before` that memory holds in full; None without one."""
        agreed = recall.agree(
            exchange,
            rank=self._rank,
            world=self._world,
            seals={place: s for place, s in self._seals().items() if before is None or s.step < before},
            need=self._arranged(state).key,
            sound=self._sound,
        )
        if agreed is None:
            return None
        plan, self._needs = agreed
        return plan

    def load(self, plan: Plan, state: Mapping[str, torch.Tensor]) -> None:
        """Fill the state from this rank's copy, or from a peer's, which becomes a copy of this rank too."""
        arrangement = self._arranged(state)
        own = self._own(plan, arrangement.key)
        place, buffer = own or self._landing(plan, arrangement.size)
        device = next((region.held(tensor)[0].device for tensor in state.values()), torch.device("cpu"))
        recall.transfer(
            plan,
            self._needs,
            self._rank,
            copy_of=lambda key: self._given(plan, key),
            into=buffer,
            device=device,
        )
        staging.empty(buffer, arrangement, state)
        if own is None and self._memory is not None and place is not None:
            self._memory.seal(place, self._sealed(plan.step, plan.mark, buffer, plan.extra))

    def settle(self, state: Mapping[str, torch.Tensor], step: int) -> None:
        """Forget copies that are newer than the `step` this run starts from, and take the memory for the next ones."""
        if self._memory is None:
            return
        seals = self._seals()
        for place in [p for p in PLACES if p not in seals or seals[p].step > step]:
            self._memory.unseal(place)
            seals.pop(place, None)
        self.newest = max((seal.step for seal in seals.values()), default=None)
        newest = max(seals, key=lambda place: seals[place].step, default=PLACES[1])
        self._first = 1 - newest
        for place in PLACES:
            self._room(place, self._arranged(state).size)

    def copy(self, place: int, state: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
        """Copy the state to a place and return it; None on a rank without memory."""
        if self._memory is None:
            return None
        arrangement = self._arranged(state)
        physical = self._physical(place)
        self._memory.unseal(physical)
        if (buffer := self._room(physical, arrangement.size)) is not None:
            staging.fill(buffer, arrangement, state)
        return buffer

    def seal(self, place: int, step: int, mark: str, buffer: torch.Tensor, extra: dict[str, Any]) -> None:
        """Hash a copy and say that it is whole; beside the training, which does not touch it."""
        if self._memory is not None:
            self._memory.seal(self._physical(place), self._sealed(step, mark, buffer, extra))
            self.newest = step

    def stored(self, buffer: torch.Tensor, state: Mapping[str, torch.Tensor]) -> dict[str, Staged]:
        """Return the boxes of a copy that this rank stores."""
        return staging.stored(buffer, self._arranged(state))

    def _arranged(self, state: Mapping[str, torch.Tensor]) -> Arrangement:
        if self._arrangement is None:  # the same state at every call: only its values change
            self._arrangement = staging.arrange(state, self._rank, replicas=True)
        return self._arrangement

    def _room(self, place: int, size: int) -> torch.Tensor | None:
        """Return the bytes at a place in memory; without room for them this rank goes on without memory."""
        try:
            return self._memory.buffer(place, size) if self._memory is not None else None
        except OSError as error:
            say(event="memory-checkpoints-off", rank=self._rank, reason=str(error))
            self._memory = None
            return None

    def _physical(self, place: int) -> int:
        return place if self._first == PLACES[0] else 1 - place

    def _seals(self) -> dict[int, Seal]:
        if self._memory is None:
            return {}
        ours = (self._stage, self._attempt)
        return {place: seal for place, seal in self._memory.seals().items() if (seal.stage, seal.attempt) == ours}

    def _sound(self, place: int, seal: Seal) -> bool:
        """Say whether a copy is what was sealed, and break its seal if not."""
        if self._memory is None:
            return False
        sound = self._memory.sound(place, seal)
        if not sound:
            say(event="memory-checkpoint-passed-over", rank=self._rank, step=seal.step, reason="has another SHA-256")
            self._memory.unseal(place)
        return sound

    def _own(self, plan: Plan, key: str) -> tuple[int, torch.Tensor] | None:
        """Return place and bytes of this rank's copy of a save under a key."""
        found = plan.seal_of(self._seals(), key)
        if found is None or self._memory is None:
            return None
        place, seal = found
        return place, self._memory.buffer(place, seal.size)

    def _given(self, plan: Plan, key: str) -> torch.Tensor:
        own = self._own(plan, key)
        assert own is not None, "the plan names this rank because it holds the copy"
        return own[1]

    def _landing(self, plan: Plan, size: int) -> tuple[int | None, torch.Tensor]:
        """Return where a peer's copy goes: over what the plan does not use, or, without room, beside the memory."""
        if self._memory is not None:
            used = {place for place, seal in self._seals().items() if (seal.step, seal.mark) == (plan.step, plan.mark)}
            place = next(place for place in PLACES if place not in used)
            self._memory.unseal(place)
            if (buffer := self._room(place, size)) is not None:
                return place, buffer
        return None, torch.empty(size, dtype=torch.uint8)

    def _sealed(self, step: int, mark: str, buffer: torch.Tensor, extra: dict[str, Any]) -> Seal:
        assert self._arrangement is not None, "the state was arranged when it was copied"
        key = self._arrangement.key
        return Seal(self._stage, self._attempt, step, mark, key, len(buffer), digest(buffer), extra)
