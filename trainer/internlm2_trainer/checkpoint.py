"""Checkpoints of a running stage: restored before the first step, saved behind the training's back.

The state is a flat dictionary of tensors and DTensors; no collective is used, so that a save runs beside
the training's own. Saved under any layout, it loads bitwise into any other.
"""

import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode, step_prefix
from internlm2_trainer import fence, publish, region, restore, shards
from internlm2_trainer.exchange import Closed, Exchange, KeyValue
from internlm2_trainer.fence import Fenced
from internlm2_trainer.restore import Choice
from internlm2_trainer.storage import Store, StoreRefused, retrying

__all__ = ["Checkpointer", "Fenced", "Restored", "SaveFailed"]


class SaveFailed(RuntimeError):
    """A save failed in a way that another try would not cure: a bug, on this rank or another."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What a run resumes from. `passed_over` are the newer steps that are damaged, with the reason."""

    step: int
    extra: dict[str, Any]
    passed_over: tuple[tuple[int, str], ...]


class Checkpointer:
    """Checkpoints of one stage. Every rank makes one and calls the same methods in the same order.

    `kv` is a torch.distributed store that nothing waits on with a blocking `get` (a client of its own is
    best). `incarnation` is the same text on every rank and new for every start of the processes, so
    that a store which outlives a restart does not mix them.
    """

    def __init__(
        self,
        store: Store,
        *,
        stage: str,
        keep: int,
        attempt: int,
        rank: int,
        world: int,
        kv: KeyValue,
        incarnation: str = "0",
    ) -> None:
        self._closing = threading.Event()
        self._writer = publish.Writer(store, stage, attempt, rank, world, keep, self._closing.wait)
        self._exchange = Exchange(kv, f"checkpoint/{incarnation}")
        self._rank, self._world, self._store, self._stage = rank, world, store, stage
        self._restores = 0
        self._calls = 0
        self._last_done: str | None = None  # key that the next finished save forgets
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._buffers: dict[str, torch.Tensor] = {}
        self._damaged: frozenset[int] = frozenset()
        self.published: tuple[int, float] | None = None  # newest step known to exist, and since when
        self.stall_seconds = 0.0  # how long `save` kept the training waiting, in all
        self.skipped = 0  # saves left out because the one before was still in flight

    def acquire_fence(self) -> None:
        """Take the right to publish for this attempt (on rank 0; nothing on the others).

        Raises:
            Fenced: a newer attempt holds it.
        """
        if self._rank == 0:
            retrying(lambda: fence.acquire(self._store, self._writer.attempt))

    def restore(self, state: dict[str, torch.Tensor]) -> Restored | None:
        """Fill `state` in place from the stage's newest verified step; None when there is none.

        Raises:
            Refused: the checkpoint is of another model.
        """
        choice = self._choose(self._stage)
        self._damaged = frozenset(step for step, _ in choice.passed_over)
        if choice.manifest is None:
            return None
        self.published = (choice.manifest.step, choice.manifest.time)
        return self._load(choice, state)

    def init_from(self, stage: str, state: dict[str, torch.Tensor]) -> Restored:
        """Fill the weights (names that start with `model.`) from another stage's newest verified step.

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
        return self._load(choice, {name: tensor for name, tensor in state.items() if name.startswith("model.")})

    def save(self, step: int, state: Mapping[str, torch.Tensor], extra: dict[str, Any], *, wait: bool = False) -> None:
        """Copy this rank's part of the state to the CPU and publish it in the background.

        While the last save is in flight the call is skipped and counted, or, with `wait`, comes after it;
        a step that exists already is not written again. With `wait` it returns when the step exists.

        Raises:
            Fenced: a newer attempt has taken over.
            StoreRefused: the storage refused the save before this one, or this one with `wait`.
        """
        started = time.monotonic()
        call, self._calls = self._calls, self._calls + 1
        decision = self._agreed(call, step, wait=wait)
        if decision["go"]:
            staged = self._stage_to_cpu(state)
            arguments = (call, step, decision["mark"], staged, extra)
            self._thread = threading.Thread(target=self._guarded, args=arguments, name="checkpoint", daemon=True)
            self._thread.start()
        self.stall_seconds += time.monotonic() - started
        if wait:
            self.wait()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until no save is in flight; False when the time ran out first. Raise what the save raised."""
        if self._thread is not None:
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                return False
            self._thread = None
        if self._failure is not None:
            raise self._failure
        return True

    def close(self) -> None:
        """Give up a save that waits for the storage or for other ranks, and end the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _choose(self, stage: str) -> Choice:
        exchange = self._exchange.under(f"restore/{self._restores}")
        self._restores += 1
        return restore.choose(self._store, stage, exchange=exchange, rank=self._rank, world=self._world)

    def _load(self, choice: Choice, state: dict[str, torch.Tensor]) -> Restored:
        assert choice.manifest is not None
        manifest = choice.manifest
        shards.load(self._store, step_prefix(manifest.stage, manifest.step), manifest, state)
        return Restored(manifest.step, manifest.extra, choice.passed_over)

    def _agreed(self, call: int, step: int, *, wait: bool) -> dict[str, Any]:
        """Return rank 0's decision about this call, since all ranks must do the same: `go`, or why not.

        `mark` makes the names of this save's objects new: an earlier incarnation's are never overwritten.
        """
        if self._rank == 0:
            self._exchange.post(f"go/{call}", self._decision(step, wait=wait))
        decision: dict[str, Any] = self._exchange.collect([f"go/{call}"], closing=self._closing.is_set)[0]
        if decision.get("busy"):
            self.skipped += 1
        else:
            self.wait()  # raises what failed; rank 0 saw every shard of the last save: only its word may be on the way
        return decision

    def _decision(self, step: int, *, wait: bool) -> dict[str, Any]:
        try:
            if not self.wait(None if wait else 0.0):
                return {"go": False, "busy": True}
        except Exception:
            return {"go": False}  # raised by the caller's own wait, and known to the others from the save itself
        there = self.published is not None and self.published[0] == step
        return {"go": not there, "mark": secrets.token_hex(4)}

    def _stage_to_cpu(self, state: Mapping[str, torch.Tensor]) -> dict[str, shards.Staged]:
        staged = {}
        for name, tensor in state.items():
            local, box = region.held(tensor)
            if not box.empty and region.writes(name, tensor, self._rank):
                staged[name] = shards.Staged(self._copied(name, local), tuple(tensor.shape), box)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return staged

    def _copied(self, name: str, local: torch.Tensor) -> torch.Tensor:
        """Copy into a buffer that every save reuses: memory does not grow, and pinning is paid once."""
        buffer = self._buffers.get(name)
        if buffer is None or buffer.shape != local.shape or buffer.dtype != local.dtype:
            buffer = torch.empty(local.shape, dtype=local.dtype, pin_memory=local.is_cuda)
            self._buffers[name] = buffer
        return buffer.copy_(local.detach(), non_blocking=True)

    def _guarded(
        self, call: int, step: int, mark: str, staged: dict[str, shards.Staged], extra: dict[str, Any]
    ) -> None:
        """Run the background half; a failure is everybody's, and is raised by the next call."""
        try:
            self._exchange.post(f"entry/{call}/{self._rank}", publish.upload(self._writer, step, mark, staged))
            if self._rank == 0:
                self._finish(call, step, extra)
            done = self._exchange.collect([f"done/{call}"], closing=self._closing.is_set)[0]
            _raise_described(done)
            self.published = (done["step"], done["time"])
        except Closed:
            pass
        except Exception as error:
            self._failure = error
            failed = {"error": _described(error)}
            self._exchange.post(f"done/{call}" if self._rank == 0 else f"entry/{call}/{self._rank}", failed)

    def _finish(self, call: int, step: int, extra: dict[str, Any]) -> None:
        """Rank 0: join the entries, publish, tell the others, delete what is old."""
        names = [f"entry/{call}/{rank}" for rank in range(self._world)]
        entries = self._exchange.collect(names, closing=self._closing.is_set)
        for entry in entries:
            _raise_described(entry)
        manifest = publish.assemble(self._writer, step, entries, extra, time.time())
        manifest = publish.publish(self._writer, manifest, replace=step in self._damaged)
        self._damaged -= {step}
        self._exchange.post(f"done/{call}", {"step": step, "time": manifest.time})
        # Every rank sent its entry, so every rank has read its order and the last save's end.
        self._exchange.forget([*names, f"go/{call}", *([self._last_done] if self._last_done else [])])
        self._last_done = f"done/{call}"
        publish.retain(self._writer, step, self._damaged)


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
