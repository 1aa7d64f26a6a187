"""Checkpoints of a running stage: restored before the first step, saved behind the training's back.

The state is a flat dictionary of tensors and DTensors; no collective is used, so that a save runs beside
the training's own. Saved under any layout, it loads bitwise into any other. Between two saves to the
storage the state is kept in the node's memory, which a restart in place resumes from.
"""

import contextlib
import dataclasses
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from internlm2_spec.config import Checkpoint, Refused
from internlm2_spec.contract import ExitCode, step_prefix
from internlm2_trainer.checkpoint import fence, publish, restore, retention, shards, staging
from internlm2_trainer.checkpoint.exchange import Closed, Exchange, KeyValue
from internlm2_trainer.checkpoint.fence import Fenced
from internlm2_trainer.checkpoint.memory import Memory
from internlm2_trainer.checkpoint.recall import Plan
from internlm2_trainer.checkpoint.restore import Choice
from internlm2_trainer.checkpoint.tier import Tier
from internlm2_trainer.observe.output import say
from internlm2_trainer.storage import Store, StoreRefused, StoreUnavailable, retrying

__all__ = ["Checkpointer", "Fenced", "Restored", "SaveFailed"]


class SaveFailed(RuntimeError):
    """A save failed in a way that another try would not cure: a bug, on this rank or another."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a run resumes from. `passed_over` are the newer steps that are damaged, with the reason."""

    step: int
    extra: dict[str, Any]
    passed_over: tuple[tuple[int, str], ...]
    tier: Literal["memory", "storage"] = "storage"


@dataclass(frozen=True, slots=True)
class Order:
    """Rank 0's decision about one call, which all ranks follow.

    `mark` makes the names of this save's objects new: an earlier incarnation's are never overwritten.
    `place` is where the copy in memory goes, None for no copy.
    """

    call: int
    step: int
    store: bool
    mark: str = ""
    place: int | None = None
    skipped: bool = False


class Checkpointer:
    """Checkpoints of one stage. Every rank makes one and calls the same methods in the same order.

    `kv` is a torch.distributed store that nothing waits on with a blocking `get` (a client of its own is
    best). `incarnation` is the same text on every rank and new for every start of the processes, so
    that a store which outlives a restart does not mix them. `memory` is None on a rank that has no room.
    """

    def __init__(
        self,
        store: Store,
        settings: Checkpoint,
        *,
        stage: str,
        attempt: int,
        rank: int,
        world: int,
        kv: KeyValue,
        memory: Memory | None = None,
        incarnation: str = "0",
    ) -> None:
        self._closing = threading.Event()
        self._writer = publish.Writer(store, stage, attempt, rank, world, self._closing.wait)
        self._settings = settings
        self._exchange = Exchange(kv, f"checkpoint/{incarnation}")
        self._rank, self._world, self._store, self._stage = rank, world, store, stage
        self._tier: Tier | None = None
        if settings.memory_every_steps:
            self._tier = Tier(memory, stage=stage, attempt=attempt, rank=rank, world=world)
        self._buffer: torch.Tensor | None = None  # what a rank without memory copies to
        self._restores = 0
        self._calls = 0
        self._orders: list[int] = []  # rank 0: calls whose orders are in the exchange
        self._passed = -1  # rank 0: the newest call that every rank is known to have followed
        self._last_done: str | None = None  # key that the next finished save forgets
        self._copied: Order | None = None  # the newest copy in memory, sealed or not
        self._in_flight: Order | None = None
        self._began = 0.0  # when the save in flight did
        self._thread: threading.Thread | None = None
        self._sealing: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._damaged: frozenset[int] = frozenset()
        self.restored: Restored | None = None  # what this run resumed from
        self.published: tuple[int, float] | None = None  # newest step known to exist, and since when
        self.stall_seconds = 0.0  # how long `save` and `remember` kept the training waiting, in all
        self.skipped = 0  # saves left out because the one before was still in flight

    def acquire_fence(self) -> None:
        """Take the right to publish for this attempt (on rank 0; nothing on the others).

        While the storage is away nobody can publish, and the first save takes the fence: no reason to wait here.

        Raises:
            Fenced: a newer attempt holds it.
        """
        if self._rank == 0:
            with contextlib.suppress(StoreUnavailable):
                retrying(lambda: fence.acquire(self._store, self._writer.attempt))

    def restore(self, state: dict[str, torch.Tensor]) -> Restored | None:
        """Fill `state` in place from the stage's newest step, in memory or verified in the storage; None without one.

        Raises:
            Refused: the checkpoint is of another model.
        """
        return self._resume_from(state, *self._newest(state))

    def _newest(self, state: dict[str, torch.Tensor], *, before: int | None = None) -> tuple[Plan | None, Choice]:
        """Agree on the newest step, of those before `before`, in memory and on a newer one in the storage."""
        plan = self._tier.recall(self._exchange_of_restore(), state, before=before) if self._tier else None
        return plan, self._choose(self._stage, above=plan.step if plan else -1, before=before)

    def _resume_from(self, state: dict[str, torch.Tensor], plan: Plan | None, choice: Choice) -> Restored | None:
        """Fill `state` from what was agreed on, and go on from there."""
        self._damaged = frozenset(step for step, _ in choice.passed_over)
        self.published, self.restored = choice.known, None
        if choice.manifest is not None:
            self.published = (choice.manifest.step, choice.manifest.time)
            self.restored = self._load(choice, state)
        elif self._tier and plan:
            self._tier.load(plan, state)
            self.restored = Restored(plan.step, plan.extra, choice.passed_over, "memory")
        if self._tier:
            self._tier.settle(state, self.restored.step if self.restored else -1)
            self._copied = None
        return self.restored

    def roll_back(self, state: dict[str, torch.Tensor], *, before: int) -> Restored | None:
        """Give up this stage's steps from `before` on, in memory and storage, and restore the newest of the rest.

        They are gone before anything is restored: a process that dies in between does not come back to them.
        Without an earlier step that is whole there is nothing to go back to: None, and everything stays as it is.

        Raises what `wait` and `restore` do, and Fenced when a newer attempt has taken over.
        """
        self.wait()
        plan, choice = self._newest(state, before=before)
        if plan is None and choice.manifest is None:
            return None
        if self._rank == 0:
            retrying(lambda: fence.acquire(self._store, self._writer.attempt))
            retrying(lambda: retention.give_up(self._store, self._stage, since=before))
        if self._tier:
            self._tier.settle(state, before - 1)
        return self._resume_from(state, plan, choice)

    def init_from(self, stage: str, state: dict[str, torch.Tensor], *, moments: bool = False) -> Restored:
        """Fill the weights (names that start with `model.`) from another stage's newest verified step.

        With `moments` those of the optimizer, too, if the step has any: imported weights have none.

        Raises:
            Refused: that stage has no checkpoint, or one of another model.
        """
        choice = self._choose(stage)
        if choice.manifest is None:
            raise StoreRefused(
                f"{self._store.url}/{stage}",
                wrong="has no finished checkpoint to start from",
                right="run that stage first, or correct initFrom",
                exit_code=ExitCode.DATA,
            )
        there = any(name.startswith("optim.") for name in choice.manifest.tensors)
        wanted = ("model.", "optim.") if moments and there else ("model.",)
        return self._load(choice, {name: tensor for name, tensor in state.items() if name.startswith(wanted)})

    def save(self, step: int, state: Mapping[str, torch.Tensor], extra: dict[str, Any], *, wait: bool = False) -> None:
        """Copy this rank's part of the state to the CPU and publish it in the background.

        While the last save is in flight the call is skipped and counted, or, with `wait`, comes after it;
        a step that exists already is not written again. With `wait` it returns when the step exists.

        Raises:
            Fenced: a newer attempt has taken over.
            StoreRefused: the storage refused the save before this one, or this one with `wait`.
        """
        started = time.monotonic()
        order = self._agreed(step, store=True, wait=wait)
        if order.skipped:
            self.skipped += 1
            if self._rank == 0 and self._in_flight is not None:
                seconds = round(started - self._began, 3)
                say(event="checkpoint-skipped", step=step, inFlight=self._in_flight.step, forSeconds=seconds)
        self._follow(order, state, extra)
        self.stall_seconds += time.monotonic() - started
        if wait:
            self.wait()

    def remember(self, step: int, state: Mapping[str, torch.Tensor], extra: dict[str, Any]) -> None:
        """Copy this rank's part of the state to the node's memory; left out while the last copy is not sealed yet.

        Raises what `save` does.
        """
        if self._tier is not None:
            started = time.monotonic()
            self._follow(self._agreed(step, store=False, wait=False), state, extra)
            self.stall_seconds += time.monotonic() - started

    @property
    def remembered(self) -> int | None:
        """Newest step of a whole copy in this rank's memory."""
        return self._tier.newest if self._tier else None

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no save is in flight; False when the time ran out first. Raise what the save raised.

        Without a limit, wait for a copy in memory to be sealed, too.
        """
        if timeout_seconds is None and self._sealing is not None:
            self._sealing.join()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                return False
            self._thread = self._in_flight = None
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        """Give up a save that waits for the storage or for other ranks, and end the threads."""
        self._closing.set()
        for thread in (self._thread, self._sealing):
            if thread is not None:
                thread.join()
        self._thread = self._sealing = None

    def _exchange_of_restore(self) -> Exchange:
        """Return values that no other restore of this run uses."""
        self._restores += 1
        return self._exchange.under(f"restore/{self._restores}")

    def _choose(self, stage: str, *, above: int = -1, before: int | None = None) -> Choice:
        return restore.choose(
            self._store, stage, exchange=self._exchange_of_restore(), rank=self._rank, world=self._world,
            above=above, before=before,
        )  # fmt: skip

    def _load(self, choice: Choice, state: dict[str, torch.Tensor]) -> Restored:
        assert choice.manifest is not None
        manifest = choice.manifest
        shards.load(self._store, step_prefix(manifest.stage, manifest.step), manifest, state)
        return Restored(manifest.step, manifest.extra, choice.passed_over)

    def _agreed(self, step: int, *, store: bool, wait: bool) -> Order:
        """Return rank 0's decision about this call, since all ranks must do the same."""
        call, self._calls = self._calls, self._calls + 1
        if self._rank == 0:
            self._exchange.post(f"go/{call}", dataclasses.asdict(self._decision(call, step, store=store, wait=wait)))
            self._orders.append(call)
        order = Order(**self._exchange.collect([f"go/{call}"], closing=self._closing.is_set)[0])
        if store and not order.skipped:
            self.wait()  # raises what failed; rank 0 saw every shard of the last save: only its word may be on the way
        return order

    def _decision(self, call: int, step: int, *, store: bool, wait: bool) -> Order:
        """Decide on rank 0: it alone knows when a save, or a copy, is done on every rank."""
        try:
            idle = self.wait(None if wait else 0.0)
        except Exception:
            return Order(call, step, store=False)  # raised by the next wait, and known to the others from the save
        self._exchange.forget([f"go/{done}" for done in self._orders if done <= self._passed])
        self._orders = [order for order in self._orders if order > self._passed]
        if store and idle and self.published is not None and self.published[0] == step:
            return Order(call, step, store=False)
        storing = store and idle
        return Order(call, step, storing, secrets.token_hex(4), self._place(must=storing), skipped=store and not idle)

    def _place(self, *, must: bool) -> int | None:
        """Return where the next copy in memory goes on every rank: never over the one that is being uploaded.

        None while some rank has yet to seal the last one, because the one before is then the newest that all have.
        A save to the storage must go somewhere, though, and goes over that.
        """
        if self._tier is None or self._copied is None:
            return None if self._tier is None else 0
        names = [f"sealed/{self._copied.call}/{rank}" for rank in range(self._world)]
        if self._exchange.there(names):
            self._passed = max(self._passed, self._copied.call)
        elif not must:
            return None
        older = 1 - (self._copied.place or 0)
        pinned = self._in_flight.place if self._in_flight else None
        return older if older != pinned else 1 - older

    def _follow(self, order: Order, state: Mapping[str, torch.Tensor], extra: dict[str, Any]) -> None:
        """Copy the state where the order says, and start what goes on behind the training's back."""
        buffer = None
        if self._tier is not None and order.place is not None:
            self._forget_seals()
            self._copied = order
            buffer = self._tier.copy(order.place, state)
        if order.store:
            self._in_flight, self._began = order, time.monotonic()
            staged = self._staged(state) if buffer is None or self._tier is None else self._tier.stored(buffer, state)
            self._thread = _started(self._guarded, order, staged, buffer, extra)
        elif order.place is not None:
            self._sealing = _started(self._seal, order, buffer, extra)

    def _forget_seals(self) -> None:
        """Forget, on rank 0, that the last copy was sealed, if that was known."""
        if self._rank == 0 and self._copied is not None and self._passed >= self._copied.call:
            self._exchange.forget([f"sealed/{self._copied.call}/{rank}" for rank in range(self._world)])

    def _staged(self, state: Mapping[str, torch.Tensor]) -> dict[str, shards.Staged]:
        """Copy what this rank stores to a buffer of its own, which every save reuses: memory does not grow."""
        arrangement = staging.arrange(state, self._rank, replicas=False)
        if self._buffer is None or len(self._buffer) != arrangement.size:
            self._buffer = torch.empty(arrangement.size, dtype=torch.uint8, pin_memory=torch.cuda.is_available())
        staging.fill(self._buffer, arrangement, state)
        return staging.stored(self._buffer, arrangement)

    def _seal(self, order: Order, buffer: torch.Tensor | None, extra: dict[str, Any]) -> None:
        """Seal this rank's copy, if it has one, and say so to rank 0."""
        try:
            if self._tier is not None and buffer is not None and order.place is not None:
                self._tier.seal(order.place, order.step, order.mark, buffer, extra)
        except OSError as error:
            say(event="memory-checkpoint-failed", rank=self._rank, step=order.step, reason=str(error))
        self._exchange.post(f"sealed/{order.call}/{self._rank}", True)

    def _guarded(
        self, order: Order, staged: dict[str, shards.Staged], buffer: torch.Tensor | None, extra: dict[str, Any]
    ) -> None:
        """Run the background half; a failure is everybody's, and is raised by the next call."""
        call = order.call
        try:
            if order.place is not None:
                self._seal(order, buffer, extra)
            entry = publish.upload(self._writer, order.step, order.mark, staged)
            self._exchange.post(f"entry/{call}/{self._rank}", entry)
            if self._rank == 0:
                self._finish(order, extra)
            done = self._exchange.collect([f"done/{call}"], closing=self._closing.is_set)[0]
            _raise_described(done)
            self.published = (done["step"], done["time"])
        except Closed:
            pass
        except Exception as error:
            self._failure = error
            failed = {"error": _described(error)}
            self._exchange.post(f"done/{call}" if self._rank == 0 else f"entry/{call}/{self._rank}", failed)

    def _finish(self, order: Order, extra: dict[str, Any]) -> None:
        """Rank 0: join the entries, publish, tell the others, delete what is old."""
        call, step = order.call, order.step
        names = [f"entry/{call}/{rank}" for rank in range(self._world)]
        entries = self._exchange.collect(names, closing=self._closing.is_set)
        for entry in entries:
            _raise_described(entry)
        manifest = publish.assemble(self._writer, step, entries, extra, time.time())
        resumed = self.restored.step if self.restored else -1
        manifest = publish.publish(self._writer, manifest, resumed=resumed, replace=step in self._damaged)
        self._damaged -= {step}
        self._exchange.post(f"done/{call}", {"step": step, "time": manifest.time})
        # Every rank sent its entry, so every rank has read its orders and the last save's end.
        self._exchange.forget([*names, *([self._last_done] if self._last_done else [])])
        self._passed = max(self._passed, call)
        self._last_done = f"done/{call}"
        retention.retain(
            self._store, self._stage, keep=self._settings.keep, keep_every=self._settings.keep_every_steps,
            before=step, damaged=self._damaged,
        )  # fmt: skip


def _started(target: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=target, args=arguments, name="checkpoint", daemon=True)
    thread.start()
    return thread


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, Fenced):
        return {"fenced": str(error)}
    if isinstance(error, Refused):
        code = int(getattr(error, "exit_code", ExitCode.CONFIG))
        return {"refused": [error.path, error.wrong, error.right, code]}
    return {"failed": f"{type(error).__name__}: {error}"}


def _raise_described(answer: dict[str, Any]) -> None:
    """Raise the error that another rank described, if the answer is one."""
    match answer.get("error"):
        case {"fenced": text}:
            raise Fenced(text)
        case {"refused": [path, wrong, right, code]}:
            raise StoreRefused(path, wrong=wrong, right=right, exit_code=ExitCode(code))
        case {"failed": text}:
            raise SaveFailed(text)
