"""`make bench-simulate`: 54 days of Llama 3 on 16,384 GPUs under our operator, and how long simulating them takes.

Writes bench/results/simulate.json and prints the answer of `internlm2 simulate --seeds 5`. Two controls run beside
it: every recovery lasts ten minutes, and nothing is noticed sooner than ten minutes after it happened.
"""

import argparse
import gc
import os
import time
from dataclasses import replace
from typing import Any

from bench.record import add_output, write
from internlm2_operator.cli.simulate import simulated
from internlm2_operator.simulate import text
from internlm2_operator.simulate.advice import advise
from internlm2_operator.simulate.result import Result, run
from internlm2_operator.simulate.scenario import Scenario, setup
from internlm2_operator.simulate.simulation import Setup
from internlm2_operator.simulate.times import Times

MINUTES = 10.0


def main() -> None:
    """Simulate every seed and write what came out."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="default 5")
    add_output(parser, "simulate")
    options = parser.parse_args()
    gc.disable()
    scenario, times = Scenario(), Times()
    setups = [setup(scenario, times, seed) for seed in range(options.seeds)]
    first, cost = timed(setups[0])
    slow = replace(times, recover_at_least=MINUTES * 60)
    late = replace(times, detect_at_least=MINUTES * 60)
    others = [*setups[1:], *(replace(s, times=slow) for s in setups), replace(setups[0], times=late)]
    results = [first, *simulated(others)]
    fast, slower, unseen = results[: len(setups)], results[len(setups) : -1], results[-1]
    one = text.median(fast)
    answer = text.Answer(scenario, times, fast, slower, MINUTES, advise(setups[fast.index(one)], one))
    detection = {"seconds": late.detect_at_least, "seed": unseen.seed, "ettr": round(unseen.ettr, 5)}
    write(options.output, "bench.simulate", {"oneRun": cost, **text.document(answer), "lateDetection": detection})
    print("\n".join(text.lines(answer)))
    print(f"one run took {cost['wallSeconds']} s, {cost['cpuSeconds']} s of CPU, and {cost['plans']} plans")


def timed(asked: Setup) -> tuple[Result, dict[str, Any]]:
    """Return the result of one run, and what it cost."""
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    result = run(asked)
    seconds = {"wallSeconds": time.perf_counter() - wall, "cpuSeconds": time.process_time() - cpu}
    return result, {"load": load, "plans": result.plans} | {name: round(value, 1) for name, value in seconds.items()}


if __name__ == "__main__":
    main()
