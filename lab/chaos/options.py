"""The command line of `python -m lab chaos`; read before the lab is started, so that a mistake starts nothing."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.chaos.deck import DECK, Planned, deal
from lab.settings import LabError

TAIL_STEPS: Final = 20
STEPS_PER_FAULT: Final = 25  # a fault takes the time of about 20 on two quiet cores, of fewer on slower ones
OUTPUT: Final = "bench/results/chaos-SEED.json"
PICTURE: Final = "docs/images/chaos-SEED.png"


@dataclass(frozen=True, slots=True)
class Shaken:
    """The run of one seed; `output` and `picture` are where its report goes."""

    seed: int
    plan: tuple[Planned, ...]
    output: Path
    picture: Path


@dataclass(frozen=True, slots=True)
class Options:
    """Runs of one length, `steps`, which are held against the same undisturbed one."""

    steps: int
    runs: tuple[Shaken, ...]


def parse(arguments: Sequence[str]) -> Options:
    """Return what was asked for; exits with 2 and one line for a mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m lab chaos",
        description="Train one job undisturbed, and for each seed once more under the faults that it deals. Nobody"
        " helps it; machines that broke are given back mended. The losses have to be the same to the last bit.",
        epilog=f"kinds: {', '.join(DECK)}",
    )
    add = parser.add_argument
    add("--faults", type=int, default=100, metavar="N", help="how many (default 100)")
    add("--seed", type=int, nargs="+", default=[1], metavar="S", help="which runs, one after the other (default 1)")
    add("--kinds", nargs="+", metavar="KIND", default=list(DECK), help="only these (default: all)")
    add(
        "--steps-per-fault", type=int, default=STEPS_PER_FAULT, metavar="N",
        help=f"length of the job (default {STEPS_PER_FAULT}); more where it ends before the last fault",
    )  # fmt: skip
    add("-o", "--output", metavar="FILE", default=OUTPUT, help="report, SEED is replaced (default %(default)s)")
    add("--picture", metavar="FILE", default=PICTURE, help="PNG, SEED is replaced (default %(default)s)")
    given = parser.parse_args(arguments)
    if given.faults < 1:
        parser.error(f"--faults: {given.faults} is too few; write 1 or more")
    if given.steps_per_fault < 1:
        parser.error(f"--steps-per-fault: {given.steps_per_fault} is too few; write 1 or more")
    for option, path in (("--output", given.output), ("--picture", given.picture)):
        if len(given.seed) > 1 and "SEED" not in path:
            parser.error(f"{option}: {path} is one file for {len(given.seed)} seeds; write SEED into its name")
    try:
        plans = {seed: deal(seed, given.faults, given.kinds) for seed in given.seed}
    except LabError as error:
        parser.error(str(error))
    return Options(
        given.faults * given.steps_per_fault + TAIL_STEPS,
        tuple(
            Shaken(seed, plan, *(Path(path.replace("SEED", str(seed))) for path in (given.output, given.picture)))
            for seed, plan in plans.items()
        ),
    )
