"""What a resumed job costs before it trains: CPU and wall seconds from `exec` to its first finished step.

    python -m bench.start [--rounds 7] [--ranks 1 4] [--output bench/results/start.json]

A tiny job (two layers of 64) trains on file:// in a temporary folder; each round starts it once more, for one step
beyond its checkpoint. CPU is user and system time of the agent and all its descendants, the dead ones included, read
from /proc when a line of the log arrives, in ticks of 10 ms; wall time is from just before the agent's `exec` to that
line. While the agent meets the others (`rendezvous`), its server imports what ranks need besides torch. `ended` adds
the step's checkpoint and the way out. Bytecode and files are in the page cache: the first start of the job and one
resumed start are not counted.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench import record
from internlm2_spec import config
from internlm2_spec.config import Checkpoint, Data, Model, Optimizer, Stage

TOP: Final = Path(__file__).parent.parent
TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
# Phases in their order, each by the line that ends it.
PHASES: Final = {
    "imports": "agent-started",
    "rendezvous": "ranks-started",
    "group": "group-joined",
    "build": "model-built",
    "load": "resumed",
    "first step": "step",
    "ended": "agent-ended",
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """CPU and wall seconds since `exec`."""

    cpu: float
    wall: float

    def __sub__(self, other: "Stamp") -> "Stamp":
        return Stamp(self.cpu - other.cpu, self.wall - other.wall)


class Job:
    """A job that can be started again and again; every start adds one step."""

    def __init__(self, folder: Path, *, ranks: int) -> None:
        self.folder = folder
        self.ranks = ranks
        self.steps = 1

    def stage(self) -> Stage:
        return Stage(
            name="start", model=Model(layers=2, hidden=64, heads=8, kv_heads=4, ffn=128, vocab=2048),
            data=Data(f"file://{self.folder}/corpus"), checkpoint=Checkpoint(f"file://{self.folder}/checkpoints"),
            sequence_length=64, global_batch_tokens=4 * 64, steps=self.steps, optimizer=Optimizer(warmup_steps=0),
        )  # fmt: skip

    def start(self) -> dict[str, Stamp]:
        """Train one more step and return when each phase ended."""
        self.steps += 1
        settings = self.folder / "job.json"
        settings.write_text(config.to_json(self.stage()))
        command = [
            sys.executable, "-m", "internlm2_trainer", "agent", "--nproc-per-node", str(self.ranks),
            "--rdzv-endpoint", f"127.0.0.1:{_free_port()}", "--is-host", "--local-addr", "127.0.0.1",
            "--", "train", "--config", str(settings),
        ]  # fmt: skip
        local = {"INTERNLM2_METRICS_PORT": "0", "INTERNLM2_CACHE_DIR": f"{self.folder}/cache"}
        exec_time = time.perf_counter()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=os.environ | local, start_new_session=True
        ) as agent:
            assert agent.stdout is not None
            stamps = {
                event: Stamp(_session_cpu_seconds(agent.pid), time.perf_counter() - exec_time)
                for event in _events(agent.stdout)
            }
        if agent.returncode:
            raise SystemExit(f"the job ended with {agent.returncode}")
        return stamps


def _events(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        fields = json.loads(line)
        yield "step" if "loss" in fields else fields["event"]


def _session_cpu_seconds(session: int) -> float:
    """Return user and system time of a session's processes, and of those that ended and were waited for."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # its parent counts it from now on
        if int(fields[3]) == session:
            ticks += sum(map(int, fields[11:15]))
    return ticks * TICK_SECONDS


def phases(stamps: dict[str, Stamp]) -> dict[str, Stamp]:
    """Return what each phase took; those that this job's log does not tell are part of the next."""
    before, took = Stamp(0.0, 0.0), {}
    for phase, event in PHASES.items():
        if event in stamps:
            took[phase] = stamps[event] - before
            before = stamps[event]
    return took


def measure(ranks: int, rounds: int) -> dict[str, Any]:
    """Return medians of the resumed starts of a job with so many ranks."""
    with tempfile.TemporaryDirectory(prefix="internlm2-start-") as folder:
        job = Job(Path(folder), ranks=ranks)
        _tokenize(job)
        for _ in ("fresh", "warm-up"):
            job.start()
        starts = []
        for number in range(1, rounds + 1):
            starts.append(job.start())
            step = starts[-1]["step"]
            print(f"{ranks} ranks, round {number}/{rounds}: {step.cpu:.2f} s CPU, {step.wall:.2f} s", file=sys.stderr)
    each = [phases(stamps) for stamps in starts]
    return {
        "ranks": ranks,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "toFirstStep": _spread([stamps["step"] for stamps in starts]),
        "phases": {phase: _spread([took[phase] for took in each]) for phase in each[0]},
    }


def _spread(stamps: list[Stamp]) -> dict[str, dict[str, float]]:
    columns = {"cpuSeconds": [stamp.cpu for stamp in stamps], "wallSeconds": [stamp.wall for stamp in stamps]}
    return {
        name: {"median": round(statistics.median(v), 2), "min": round(min(v), 2), "max": round(max(v), 2)}
        for name, v in columns.items()
    }


def _tokenize(job: Job) -> None:
    examples = TOP / "examples"
    texts = sorted(map(str, (examples / "corpus").glob("179*.txt")))
    tokenizer, output = str(examples / "tokenizer/internlm2-2k.model"), str(job.stage().data.url)
    command = [sys.executable, "-m", "internlm2_trainer", "tokenize", "--tokenizer", tokenizer, "--input", *texts]
    subprocess.run([*command, "--output", output], check=True, stdout=subprocess.DEVNULL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def main() -> int:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=7, help="resumed starts that count (default 7)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4], help="ranks of the jobs (default 1 4)")
    record.add_output(parser, "start")
    options = parser.parse_args()
    jobs = [measure(ranks, options.rounds) for ranks in options.ranks]
    record.write(options.output, "bench.start", {"jobs": jobs})
    for job in jobs:
        print(f"{job['ranks']} ranks{'':6}    CPU   wall")
        for phase, took in {"to first step": job["toFirstStep"], **job["phases"]}.items():
            print(f"  {phase:13} {took['cpuSeconds']['median']:6.2f} {took['wallSeconds']['median']:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
