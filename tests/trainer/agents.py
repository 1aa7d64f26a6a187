"""Real agents on this machine, each in a process group of its own that stands for a pod."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from internlm2_spec import config
from internlm2_spec.config import Checkpoint, Data, Model, Optimizer, Parallel, Stage
from internlm2_spec.contract import Termination
from tests import programs, servers

ROOT: Final = Path(__file__).parents[2]
DEADLINE_SECONDS: Final = 150.0

PROGRAM: Final = ("internlm2_trainer", "agent")

Line = dict[str, Any]


class Agent:
    """One agent process. Its output lines are JSON objects; other lines are kept aside."""

    def __init__(
        self, folder: Path, name: str, arguments: list[str], program: Sequence[str] = PROGRAM, *, fresh: bool = False,
        metrics_port: int = 0,
    ) -> None:  # fmt: skip
        self.name = name
        self.output = folder / f"{name}.out"
        self.errors = folder / f"{name}.err"
        self._termination = folder / f"{name}.termination"
        environment = os.environ | {
            "GLOO_SOCKET_IFNAME": "lo",
            "INTERNLM2_METRICS_PORT": str(metrics_port),
            "INTERNLM2_TERMINATION_LOG": str(self._termination),
            "INTERNLM2_CACHE_DIR": str(folder / "cache"),
        }
        self.output.touch()
        self.errors.touch()
        self.process = programs.start(
            [*program, *arguments], environment=environment, output=self.output, errors=self.errors, fresh=fresh
        )

    def lines(self) -> list[Line]:
        text = self.output.read_text()
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def events(self, event: str) -> list[Line]:
        return [line for line in self.lines() if line.get("event") == event]

    def steps(self) -> list[Line]:
        return [line for line in self.lines() if "loss" in line]

    def midway(self) -> bool:
        """Say whether training is past step 12 and some steps from the last copy in memory and from the next."""
        last = self.steps()[-1]["step"] if self.steps() else 0
        return last > 12 and 1 < last % 10 < 6

    def signal_all(self, number: signal.Signals) -> None:
        """Signal every process of the pod."""
        assert self.process.pid is not None
        os.killpg(self.process.pid, number)

    def wait(self) -> int:
        return programs.wait(self.process, DEADLINE_SECONDS)

    def termination(self) -> Termination:
        end = Termination.from_json(self._termination.read_text())
        assert end is not None
        return end


@contextmanager
def started(
    folder: Path, stage: Stage, names: list[str], *, nodes: int, ranks: int = 1, fresh: bool = False
) -> Iterator[list[Agent]]:
    """Start one agent for each name (a loopback address). Kill them afterwards.

    The first hosts the rendezvous; those beyond `nodes` are spares, and start before all others.
    """
    (folder / "job.json").write_text(config.to_json(stage))
    shared = [
        "--nnodes", f"{nodes}:{nodes}", "--nproc-per-node", str(ranks), "--rdzv-endpoint", endpoint(),
    ]  # fmt: skip
    job = ["--", "train", "--config", str(folder / "job.json")]
    role = [["--is-host"], *([[]] * (nodes - 1)), *([["--spare"]] * (len(names) - nodes))]
    agents = [
        Agent(folder, name, [*shared, "--local-addr", name, *flags, *job], fresh=fresh)
        for name, flags in reversed(list(zip(names, role, strict=True)))
    ][::-1]
    try:
        yield agents
    finally:
        for agent in agents:
            if agent.process.exitcode is None:
                agent.signal_all(signal.SIGKILL)
                agent.process.join()


def until(condition: Callable[[], bool], what: str, agents: list[Agent]) -> None:
    """Wait for a condition; past the deadline fail with what the agents wrote."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            written = "\n".join(
                f"{a.name}:\n{a.output.read_text()[-1500:]}{a.errors.read_text()[-1500:]}" for a in agents
            )
            raise AssertionError(f"not within {DEADLINE_SECONDS:.0f} s: {what}\n{written}")
        time.sleep(0.05)


def corpus(folder: Path) -> str:
    """Tokenize a few speeches and return the corpus's URL."""
    url = f"file://{folder}/corpus"
    texts = sorted((ROOT / "examples/corpus").glob("179*.txt"))
    tokenizer = ROOT / "examples/tokenizer/internlm2-2k.model"
    command = [sys.executable, "-m", "internlm2_trainer", "tokenize", "--input", *map(str, texts)]
    subprocess.run([*command, "--tokenizer", str(tokenizer), "--output", url], check=True, timeout=DEADLINE_SECONDS)
    return url


def stage(folder: Path, corpus_url: str, *, steps: int) -> Stage:
    """Return a small stage over two data ranks, with a copy in memory every 10 steps and a checkpoint every 20."""
    return Stage(
        name="test",
        model=Model(layers=2, hidden=64, heads=8, kv_heads=4, ffn=128, vocab=2048),
        data=Data(corpus_url),
        checkpoint=Checkpoint(f"file://{folder}/checkpoints", every_steps=20, keep=3, memory_every_steps=10),
        sequence_length=64,
        global_batch_tokens=4 * 64,
        steps=steps,
        optimizer=Optimizer(lr=3e-3, min_lr=3e-4, warmup_steps=5),
        parallel=Parallel(),
    )


def endpoint() -> str:
    """Return a free port of this machine, as HOST:PORT."""
    return f"127.0.0.1:{servers.free_port()}"
