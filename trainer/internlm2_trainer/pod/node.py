"""This node's ranks: started together after each rendezvous, watched, restarted or given up together."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NoReturn

from torch.distributed import DistError
from torch.distributed.elastic.agent.server.api import (
    RunResult,
    SimpleElasticAgent,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousError

from internlm2_spec.contract import (
    ENV_ENDED,
    ENV_INCARNATION,
    ENV_MEMORY_DIR,
    ENV_RUN_DIR,
    FINAL_EXIT_CODES,
    HANG,
    ExitCode,
    FailureClass,
    Termination,
)
from internlm2_spec.standstill import Cluster
from internlm2_trainer.observe.output import say
from internlm2_trainer.pod import ending, forks
from internlm2_trainer.pod.interrupt import StopRequested
from internlm2_trainer.pod.rendezvous import Rendezvous

# How long ranks may take to end by themselves once one of them has, or once the store is lost.
GRACE_SECONDS: Final = 5.0
STACKS_SECONDS: Final = 1.0
EXIT_BARRIER_SECONDS: Final = 30.0
MONITOR_SECONDS: Final = 0.1

# A lost peer is nobody's restart, but a network that never connects must not restart for ever.
PEER_RESTARTS_PER_RESTART: Final = 10

ABORTED: Final = "RankAborted"
_STOPPED: Final = Termination(FailureClass.STOPPED, "StoppedOnRequest", ExitCode.STOPPED)


class Node(SimpleElasticAgent):
    """torch's elastic agent with ranks of its own making, and with exit codes that mean something."""

    def __init__(
        self, rendezvous: Rendezvous, server: forks.Server, *, ranks: int, verb: list[str], folder: Path,
        memory: Path | None, max_restarts: int, shutdown_seconds: float,
    ) -> None:  # fmt: skip
        spec = WorkerSpec(
            role="trainer", local_world_size=ranks, rdzv_handler=rendezvous.handler, entrypoint="internlm2_trainer",
            max_restarts=max_restarts, monitor_interval=MONITOR_SECONDS,
        )  # fmt: skip
        super().__init__(spec, exit_barrier_timeout=EXIT_BARRIER_SECONDS)
        self.rendezvous = rendezvous
        self.server = server
        self.verb = verb
        self.folder = folder
        self.folders = {ENV_RUN_DIR: str(folder)} | ({ENV_MEMORY_DIR: str(memory)} if memory else {})
        self.shutdown_seconds = shutdown_seconds
        self.processes: list[forks.Process] = []
        self.incarnation = 0
        self.fell: Termination | None = None  # how the ranks before the next ones ended
        self.peer_restarts = PEER_RESTARTS_PER_RESTART * (max_restarts + 1)
        self.end = _STOPPED

    def run_to_the_end(self) -> Termination:
        """Run until done, given up or stopped, and return how that came about."""
        try:
            result = self.run()
        except StopRequested:
            return self._stop_ranks()
        except RendezvousClosedError as error:
            return self._closed(str(error))
        except (RendezvousError, DistError) as error:
            return self._lost(error)
        if result is None:  # a spare, and the members are done
            return self._closed("the members ended")
        if result.state is WorkerState.SUCCEEDED:
            self.end = Termination(FailureClass.DONE, "Completed", ExitCode.DONE)
        if self.end.exit_code in (ExitCode.DONE, ExitCode.BUG, *FINAL_EXIT_CODES):
            # Nothing that a replacement of this node could cure: nobody shall wait for one.
            self._part(lambda: self.rendezvous.close(self.end.exit_code))
        else:
            self._part(self.rendezvous.handler.leave)
        return self.end

    def kill(self) -> bool:
        """Kill the ranks that run, and return whether any did."""
        running = [process for process in self.processes if process.is_alive()]
        for process in running:
            process.kill()
        for process in running:
            process.join()
        return bool(running)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        ending.collect(self.folder)  # what ranks left that were stopped is no news
        self.processes = []
        told = {ENV_ENDED: replace(self.fell, traceback="").to_json()} if self.fell else {}
        self.fell = None
        for worker in worker_group.workers:
            environment = {
                "RANK": str(worker.global_rank),
                "WORLD_SIZE": str(worker.world_size),
                "LOCAL_RANK": str(worker.local_rank),
                "LOCAL_WORLD_SIZE": str(len(worker_group.workers)),
                "MASTER_ADDR": str(worker_group.master_addr),
                "MASTER_PORT": str(worker_group.master_port),
                ENV_INCARNATION: str(self.incarnation),
            }
            self.processes.append(self.server.fork(self.folders | told | environment, self.verb))
        say(
            event="ranks-started",
            ranks=[worker.global_rank for worker in worker_group.workers],
            pids=[process.pid for process in self.processes],
            world=worker_group.workers[0].world_size,
            incarnation=self.incarnation,
            time=time.time(),
        )
        self.incarnation += 1
        return {local_rank: process.pid for local_rank, process in enumerate(self.processes)}

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        codes = [process.exitcode for process in self.processes]
        if all(code == 0 for code in codes):
            return RunResult(WorkerState.SUCCEEDED, return_values={w.global_rank: None for w in worker_group.workers})
        if not any(codes):
            return RunResult(WorkerState.HEALTHY)
        self.end = self.fell = self._settle()
        if self.end.exit_code in FINAL_EXIT_CODES:
            self._remaining_restarts = 0
        elif self.end.failure is FailureClass.PEER and self.end.reason != HANG and self.peer_restarts > 0:
            self.peer_restarts -= 1
            self._remaining_restarts += 1  # which the caller takes away again
        say(
            event="ranks-failed", reason=self.end.reason, rank=self.end.rank, message=self.end.message,
            firstFailingRank=self.end.first_failing_rank, restartsLeft=self._remaining_restarts,
        )  # fmt: skip
        return RunResult(WorkerState.FAILED)

    def _settle(self) -> Termination:
        """Let the ranks end within the grace, kill the rest, and return what explains the failure."""
        _wait(self.processes, GRACE_SECONDS)
        ranks = [worker.global_rank for worker in self._worker_group.workers]
        named = list(zip(ranks, self.processes, strict=True))
        explained = ending.collect(self.folder)
        known = {pid for pid, _ in explained}
        ends = [end for _, end in explained]
        silent = [
            _silent(rank, process.exitcode, ending.stacks(self.folder, process.pid))
            for rank, process in named
            if process.exitcode and process.pid not in known
        ]
        stuck = self._stuck(named) if any(end.reason == HANG for end in ends) else []
        self.kill()
        # A rank whose libraries abort it because of another's end comes after one that says what it died of.
        killed = [end for end in silent if end.reason != ABORTED]
        aborted = [end for end in silent if end.reason == ABORTED]
        all_ends = [*killed, *ends, *aborted, *stuck]
        end = ending.blame(all_ends or [_STOPPED])
        if end.failure is FailureClass.PEER and end.reason != HANG:
            return replace(end, stood=ending.stood(all_ends))  # the others may say that it was a hang
        if end.reason != HANG:
            return end
        alone = len(ranks) == self._worker_group.workers[0].world_size
        # All wait, and nobody elsewhere is waited for: then it is the network, or the collective itself.
        failure = FailureClass.INFRASTRUCTURE if alone else end.failure
        return replace(end, failure=failure, stood=ending.stood(all_ends))

    def _stuck(self, ranks: list[tuple[int, forks.Process]]) -> list[Termination]:
        """Explain the ranks that still run after others found that nothing goes on, and let them show their stacks."""
        running = [(rank, process) for rank, process in ranks if process.is_alive()]
        for _, process in running:
            if process.pid is not None:
                os.kill(process.pid, signal.SIGUSR1)
        _wait([process for _, process in running], STACKS_SECONDS)
        return [
            Termination(
                FailureClass.INFRASTRUCTURE, HANG, ExitCode.HANG,
                f"rank {rank} left no word while others found that nothing goes on: it is stopped, or stuck in C", rank,
                stood=(Cluster((rank,)),),
            )
            for rank, _ in running
        ]  # fmt: skip

    def _stop_workers(self, worker_group: WorkerGroup) -> None:  # noqa: ARG002
        # They are ending already, or a member is lost and no step of theirs can finish: nothing to wait for.
        self.kill()

    def _shutdown(self, death_sig: signal.Signals = signal.SIGTERM, timeout: int = 30) -> None:
        """Called by torch on every way out. Ending the ranks is left to `run_to_the_end`, which knows why."""

    def _stop_ranks(self) -> Termination:
        """Ask the ranks for a last checkpoint, wait for it, and return how it went."""
        running = [process for process in self.processes if process.is_alive()]
        for process in running:
            process.terminate()
        _wait(running, self.shutdown_seconds)
        if self.kill():
            message = f"ranks were still running {self.shutdown_seconds:.0f} s after SIGTERM"
            return Termination(FailureClass.INFRASTRUCTURE, "ShutdownTimeout", ending.INFRASTRUCTURE_EXIT_CODE, message)
        explained = [end for _, end in ending.collect(self.folder)]
        # A rank that had not begun to train has no handler yet, leaves no word and has nothing to save.
        return ending.blame(explained) if explained else _STOPPED

    def _closed(self, message: str) -> Termination:
        self.kill()
        code = self.rendezvous.ended_with()
        if code is None or code == ExitCode.DONE:
            return Termination(FailureClass.DONE, "RendezvousClosed", ExitCode.DONE, message)
        failure = FailureClass.STOPPED if code == ExitCode.STOPPED else FailureClass.PEER
        return Termination(failure, "RendezvousClosed", code, message)

    def _lost(self, error: Exception) -> Termination:
        """Return how this node ends without the store: its ranks may have just finished, or lost peers too."""
        _wait(self.processes, GRACE_SECONDS)
        explained = [end for _, end in ending.collect(self.folder)]
        if not self.kill() and explained and ending.blame(explained).failure is not FailureClass.PEER:
            return ending.blame(explained)
        return Termination(FailureClass.PEER, "RendezvousLost", ending.INFRASTRUCTURE_EXIT_CODE, str(error)[:512])

    def _part(self, how: Callable[[], None]) -> None:
        try:
            how()
        except (RendezvousError, DistError) as error:
            say(event="rendezvous-not-told", reason=str(error)[:200])


def run_rank(environment: dict[str, str], verb: list[str]) -> NoReturn:
    """Be one rank, in a process forked from the server."""
    from internlm2_trainer.__main__ import main

    os.environ.update(environment)
    ending.leave_stacks()
    sys.argv[1:] = verb
    _name_process(f"rank{environment['RANK']}")
    code = main(verb)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not the interpreter's way out: it would wait for an upload thread that may have lost its peers.
    os._exit(code)


def _name_process(name: str) -> None:
    """Let ps, top and whoever looks for one rank tell the forked processes apart, where the system can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text(name)


def _silent(rank: int, exit_code: int, stacks: str) -> Termination:
    """Explain a rank that left no word: killed, most often, or crashed, of which the stacks are shown."""
    how = f"signal {signal.Signals(-exit_code).name}" if exit_code < 0 else f"code {exit_code}"
    reason = ABORTED if exit_code == -signal.SIGABRT else "RankKilled"
    if stacks:
        print(f"rank {rank}: {stacks}", file=sys.stderr, flush=True)
    return Termination(
        FailureClass.INFRASTRUCTURE, reason, ending.INFRASTRUCTURE_EXIT_CODE, f"rank {rank} ended by {how}", rank,
        traceback=stacks,
    )  # fmt: skip


def _wait(processes: list[forks.Process], seconds: float) -> None:
    """Wait until all have ended, `seconds` at most."""
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
