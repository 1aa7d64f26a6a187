"""What `train` is told on its command line. Without torch: the agent refuses a mistake before it starts a rank."""

import argparse
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from internlm2_spec.config import Refused

TRACES: Final = "traces"

_EPILOG: Final = """examples:
  python -m internlm2_trainer train --config job.json
      one process. On a terminal one line shows how it goes; through a pipe each step is one JSON object.
  python -m internlm2_trainer agent --nproc-per-node 8 -- train --config job.json
      eight ranks of one node, started again when one fails
  torchrun --nproc-per-node 8 -m internlm2_trainer train --config job.json
      eight ranks of another launcher
  python -m internlm2_trainer train --config job.json --profile 5:7
      as the first, with a trace of steps 5, 6 and 7 in traces/, for chrome://tracing or ui.perfetto.dev
  kill -USR1 PID
      shows where each thread of a rank is

Ctrl-C ends at once; SIGTERM ends after a checkpoint (75). The stage resumes from its newest checkpoint.
Exit codes: 0 done, 2 command line, 64 configuration or memory, 65 data, 70 a bug, 75 stopped, 77 hung."""


@dataclass(frozen=True, slots=True)
class Span:
    """Which steps to trace, counted from 1, both ends included, and the folder for the files."""

    first: int
    last: int
    folder: Path

    @classmethod
    def parse(cls, steps: str, folder: str) -> "Span":
        """Read FIRST:LAST. Raise ValueError that says what is wrong."""
        found = re.fullmatch(r"([0-9]+):([0-9]+)", steps)
        if not found:
            raise ValueError(f"--profile: {steps!r} is not FIRST:LAST; write 5:7 for steps 5, 6 and 7")
        first, last = int(found[1]), int(found[2])
        if not 0 < first <= last:
            raise ValueError(f"--profile: {steps!r} is not a range of steps, which count from 1; write 5:7")
        if "://" in folder:
            raise ValueError(f"--profile-dir: {folder!r} is a URL, and traces go into a folder; write {TRACES}")
        return cls(first, last, Path(folder))

    def check(self, *, after: int, steps: int) -> None:
        """Raise Refused where a run does not do all of them: it starts after step `after` and ends with `steps`."""
        if not after < self.first <= self.last <= steps:
            wrong = f"steps {self.first} to {self.last} are not all done by this run"
            raise Refused("--profile", wrong=wrong, right=f"use steps from {after + 1} to {steps}")

    def path(self, stage: str, rank: int) -> Path:
        """Return the file of one rank."""
        return self.folder / f"trace-{stage}-step{self.first}-{self.last}-rank{rank}.json.gz"


@dataclass(frozen=True, slots=True)
class TrainOptions:
    config: str
    trace: Span | None


def parse(arguments: list[str]) -> TrainOptions:
    """Return the options of `train`. A mistake ends the process with code 2 and one line of argparse's."""
    parser = argparse.ArgumentParser(
        prog="internlm2_trainer train",
        description="Train one stage, on this process alone or as one rank of a launcher.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, help="JSON file of the stage, as in the job's ConfigMap")
    parser.add_argument("--profile", metavar="FIRST:LAST", help="trace these steps, counted from 1, on every rank")
    parser.add_argument("--profile-dir", default=TRACES, help=f"folder for the traces (default ./{TRACES})")
    options = parser.parse_args(arguments)
    try:
        trace = Span.parse(options.profile, options.profile_dir) if options.profile is not None else None
    except ValueError as error:
        parser.error(str(error))
    return TrainOptions(options.config, trace)
