"""`internlm2 simulate`: what faults would cost a job, with the operator's own decisions and no cluster."""

import argparse
import gc
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from internlm2_operator.simulate import text
from internlm2_operator.simulate.advice import advise
from internlm2_operator.simulate.faults import MIXES
from internlm2_operator.simulate.result import Result, run
from internlm2_operator.simulate.scenario import Scenario, setup
from internlm2_operator.simulate.simulation import Setup
from internlm2_operator.simulate.times import ASSUMED, Times, changed, meaning
from internlm2_operator.simulate.trace import read_csv
from internlm2_spec.config import Refused

VERB: Final = "simulate"
MEANING: Final = "what faults would cost a job of this size, and what spares and checkpoints it should have"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the questions that can be asked; every default is the Llama 3 run."""
    plain, add = Scenario(), parser.add_argument
    add("--faults", default="llama3", metavar="NAME|CSV", help="llama3, acme, or a file: time (h), node, kind, cause")
    add("--nodes", type=int, default=plain.nodes, help="nodes that train (default %(default)s)")
    add("--min-nodes", type=int, help="nodes.min (default: --nodes)")
    add("--gpus-per-node", type=int, default=plain.gpus_per_node, help="default %(default)s")
    add("--spares", type=int, default=plain.spares, help="nodes.spares (default %(default)s)")
    add("--free-nodes", type=int, default=plain.free_nodes, help="further nodes of the cluster (default %(default)s)")
    add("--days", type=float, default=plain.days, help="default %(default)s")
    add("--step-seconds", type=float, default=plain.step_seconds, help="of one step (default %(default)s)")
    add("--every-steps", type=int, default=plain.every_steps, help="checkpoint.everySteps (default %(default)s)")
    add("--memory-every-steps", type=int, default=plain.memory_every_steps, help="0 for none (default %(default)s)")
    add("--no-replicas", action="store_true", help="a replaced pod's copy in memory is on no other node")
    add("--seed", type=int, default=0, help="first seed (default 0)")
    add("--seeds", type=int, default=1, help="how many seeds, counted from the first (default 1)")
    add("--against", type=float, default=10.0, metavar="MIN", help="also with every recovery this long; 0: not")
    add("--detect", type=float, metavar="S", help="notice no fault sooner than this")
    for name in ASSUMED:
        add(f"--{name.replace('_', '-')}", type=float, metavar="S", help=meaning(name))
    add("-o", "--output", choices=("text", "json"), default="text", help="default text")


def answer(asked: argparse.Namespace) -> Iterator[str]:
    """Simulate and yield the lines of the answer.

    Raises:
        Refused: an option or a line of the trace says something that cannot be.
    """
    scenario, times = _scenario(asked), _times(asked)
    if asked.seeds < 1:
        raise Refused("--seeds", wrong=f"{asked.seeds}", right="use 1 or more")
    setups = [setup(scenario, times, seed) for seed in range(asked.seed, asked.seed + asked.seeds)]
    control = replace(times, recover_at_least=asked.against * 60)
    slower = [replace(one, times=control) for one in setups] if asked.against else []
    results = tuple(simulated([*setups, *slower]))
    fast, slow = results[: len(setups)], results[len(setups) :]
    one = text.median(fast)
    advice = advise(setups[fast.index(one)], one)
    told = text.Answer(scenario, times, fast, slow, asked.against, advice)
    if asked.output == "json":
        yield json.dumps(text.document(told), indent=1)
    else:
        yield from text.lines(told)


def simulated(setups: list[Setup]) -> Iterable[Result]:
    """Return the results in order, on every core; which core takes which changes nothing."""
    cores = min(len(setups), os.cpu_count() or 1)
    # Nothing here is cyclic, and the collector would look through 100,000 records again and again.
    with ProcessPoolExecutor(cores, initializer=gc.disable) as pool:
        return list(pool.map(run, setups))


def _scenario(asked: argparse.Namespace) -> Scenario:
    scenario = Scenario(
        nodes=asked.nodes,
        min_nodes=asked.min_nodes,
        gpus_per_node=asked.gpus_per_node,
        spares=asked.spares,
        free_nodes=asked.free_nodes,
        days=asked.days,
        step_seconds=asked.step_seconds,
        every_steps=asked.every_steps,
        memory_every_steps=asked.memory_every_steps,
        replicas=not asked.no_replicas,
    )
    if asked.faults in MIXES:
        return replace(scenario, mix=MIXES[asked.faults])
    try:
        with Path(asked.faults).open(newline="", encoding="utf-8") as file:
            return replace(scenario, trace=read_csv(file, nodes=scenario.all_nodes))
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(MIXES)
        raise Refused("--faults", wrong=f"{asked.faults}: {error}", right=f"use {known} or a CSV file") from error
    except Refused as error:
        raise Refused(f"{asked.faults}: {error.path}", wrong=error.wrong, right=error.right) from error


def _times(asked: argparse.Namespace) -> Times:
    given = {name: getattr(asked, name) for name in ASSUMED}
    for name, value in (given | {"detect": asked.detect, "against": asked.against}).items():
        if value is not None and not 0 <= value < float("inf"):
            raise Refused(f"--{name.replace('_', '-')}", wrong=f"{value:g}", right="use 0 or more")
    if given["pods_per_second"] == 0:
        raise Refused("--pods-per-second", wrong="0", right="use more than 0")
    return changed(Times(), given | {"detect_at_least": asked.detect})
