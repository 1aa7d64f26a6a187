"""`python -m bench.hangs`: 10,000 job-hours without a hang, and how often each rule would have called one.

The jobs have heavy-tailed steps, pauses and restarts of the kinds that real ones have; the rules are those of the
product: `limit` of the trainer's watch, `patience` of the operator. Beside them stand simpler rules, and how long a
stalled step may be before ours is wrong. Then real hangs, each found by a watch that polls as the trainer's does.
"""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from bench.record import add_output, write
from internlm2_operator.plan.snapshot import Heard
from internlm2_operator.plan.stall import patience
from internlm2_spec.contract import Progress, TrainPhase
from internlm2_trainer.loop.hang import POLL_SECONDS, WINDOW, Limits, Watch, limit

HOURS: Final = 10_000
JOB_HOURS: Final = 50.0
LIMITS: Final = Limits()
CAPS: Final = (20.0, 40.0, 50.0, 60.0, 120.0, 600.0)
Seconds = npt.NDArray[np.float64]
Chance = np.random.Generator

SAID: Final = Progress(
    TrainPhase.STEP, 0, 2, 1, 0, 0, 1, 0.0, 0.0, 0.0, None, 1.0, None, None, None, limit_seconds=LIMITS.floor_seconds
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """What a job does when nothing is wrong. Seconds, each drawn anew for each job or event.

    A step is log-normal around a median between half a second and two minutes. Some stall by a Pareto-distributed time
    of up to `cap`: a retransmission, a page that is not cached, a collection of garbage; nothing of a step waits for
    the store. For minutes at a time all steps take twice as long, as under a thermal limit.
    """

    cap: float = 40.0
    spike_alpha: float = 1.2
    longest_pause: float = 1700.0  # a save that waits for a slow store, a load, a compilation, an evaluation
    longest_outage: float = 170.0  # from the last step until processes that are started again answer


@dataclass(frozen=True, slots=True)
class Life:
    """One start of a job's processes: its steps, the first of which compiles, and what interrupts them."""

    steps: Seconds
    pauses: Seconds  # saves, loads, evaluations
    outage: float  # before it, without any process
    clock_off: float  # of the trainers' clocks against the operator's


def lives(chance: Chance, hours: float, model: Model) -> Iterator[Life]:
    """Yield the lives of one job until its hours are over."""
    left = hours * 3600
    median, sigma = float(np.exp(chance.uniform(np.log(0.5), np.log(120)))), chance.uniform(0.02, 0.25)
    spikes = float(np.exp(chance.uniform(np.log(1e-4), np.log(1e-2))))
    while left > 0:
        count = max(3, int(min(left, chance.exponential(5 * 3600)) / median))
        steps = median * chance.lognormal(0, sigma, count)
        for start in chance.integers(0, count, count // 2000):
            steps[start : start + int(chance.integers(5, 200))] *= 2
        struck = np.flatnonzero(chance.random(count) < spikes)
        steps[struck] += np.minimum(model.cap, 0.5 * chance.pareto(model.spike_alpha, len(struck)) + 0.5)
        steps[0] += chance.uniform(0, 1200)
        pauses = np.minimum(model.longest_pause, 5 * chance.lognormal(0, 1.5, 2 + count // 50))
        pauses[: len(pauses) // 10] = chance.uniform(60, model.longest_pause, len(pauses) // 10)
        outage = min(model.longest_outage, 12 * chance.lognormal(0, 0.8))
        yield Life(steps, pauses, outage, chance.choice([0.0, 0.0, 0.0, -1.0, 1.0]) * chance.uniform(60, 7200))
        left -= float(steps.sum() + pauses.sum())


def recent(steps: Seconds, number: int) -> tuple[float, ...]:
    """Return the steps that a watch remembers during step `number` (from 0): not the first, once there are others."""
    first = 1 if number > 1 else 0
    return tuple(steps[max(first, number - WINDOW) : number].tolist())


def alarms(life: Life) -> Counter[str]:
    """Return how often each rule calls a hang in a life that has none. A longer step than the floor may be one."""
    found: Counter[str] = Counter()
    for number in np.flatnonzero(life.steps > LIMITS.floor_seconds).tolist():
        allowed = limit(TrainPhase.STEP, recent(life.steps, number), LIMITS, stopping=False)
        found["trainer"] += bool(life.steps[number] > allowed)
        found["operator"] += any(life.steps[number] > outside(allowed, *heard) for heard in LISTENING)
    resting = limit(TrainPhase.CHECKPOINT, (), LIMITS, stopping=False)
    found["trainer"] += int((life.pauses > resting).sum())
    found["operator"] += int((life.pauses > outside(resting, *LISTENING[0])).sum())
    last = limit(TrainPhase.STEP, recent(life.steps, len(life.steps)), LIMITS, stopping=False)
    found["operator"] += bool(life.outage > outside(last, REFUSED, REFUSED))
    return found + simpler(life, last)


ANSWERS: Final = Heard(0.0, 0.5)
REFUSED: Final = Heard(0.0, 60.0)
MUTE: Final = Heard(0.0, 60.0, mute=True)
STOPPED: Final = Heard(0.0, 60.0, mute=True, stopped=True)
# How pods of a job that trains may be heard: all, one not, or none of them, because the operator is cut off from it or
# they answer too slowly.
LISTENING: Final = ((ANSWERS, ANSWERS), (ANSWERS, MUTE), (MUTE, MUTE), (STOPPED, STOPPED))


def outside(allowed: float, *heard: Heard) -> float:
    """Return what the operator lets pass of trainers that state a limit and are heard like this."""
    said = dataclasses.replace(SAID, limit_seconds=allowed)
    return patience([said, said], heard, 2, 1)


def simpler(life: Life, allowed: float) -> Counter[str]:
    """Return the alarms of rules that one might think of first."""
    everything = np.concatenate((life.steps, life.pauses))
    jumped = life.clock_off < 0 and -life.clock_off > allowed
    return Counter(
        {
            "fixed 30 s": int((everything > 30).sum()),
            "3 x median": int((life.steps[1:] > 3 * np.median(life.steps)).sum()),
            "our limit, blind to phases": int((life.pauses > allowed).sum()),
            "our limit, by the trainers' clocks": int(jumped),
            "silent for 30 s": int(life.outage > 30),
            "our limit, whatever the silence": int(life.outage > allowed),
        }
    )


def simulate(hours: int, seed: int, model: Model) -> dict[str, Any]:
    """Return the alarms of every rule in so many hours of jobs that do not hang."""
    found: Counter[str] = Counter()
    counted: Counter[str] = Counter()
    for job in range(round(hours / JOB_HOURS)):
        for life in lives(np.random.default_rng((seed, job)), JOB_HOURS, model):
            found += Counter(dict.fromkeys(found, 0)) + alarms(life)
            counted += Counter(starts=1, steps=len(life.steps), pauses=len(life.pauses))
    rules = ("trainer", "operator", *simpler(Life(np.ones(2), np.ones(1), 0.0, 0.0), 1.0))
    return {"hours": hours, **counted, "falseAlarms": {rule: found[rule] for rule in rules}}


def delays(count: int, seed: int, model: Model) -> list[tuple[float, float]]:
    """Return of real hangs after how many seconds a polling watch found each, and within how many it had to."""
    found = []
    for number in range(count):
        chance = np.random.default_rng((seed, number, 1))
        steps = next(lives(chance, JOB_HOURS, model)).steps[: int(chance.integers(3, 600))]
        watch = Watch(lambda: TrainPhase.STEP, lambda _: None, LIMITS)
        for seconds in steps.tolist():
            watch.step_finished(seconds)
        polls = 1
        while not watch.late(POLL_SECONDS):
            polls += 1
        known = np.sort(steps[1:][-WINDOW:])
        p99 = known[int(np.ceil(0.99 * len(known))) - 1]
        found.append((polls * POLL_SECONDS, max(LIMITS.floor_seconds, LIMITS.multiple * float(p99))))
    return found


def main() -> None:
    """Simulate, write and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.hangs", description=__doc__)
    parser.add_argument("--hours", type=int, default=HOURS, help=f"job-hours without a hang (default {HOURS})")
    parser.add_argument("--hangs", type=int, default=500, help="real hangs (default 500)")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    add_output(parser, "hangs")
    options = parser.parse_args()
    quiet = simulate(options.hours, options.seed, Model())
    by_cap = {cap: simulate(options.hours, options.seed, Model(cap=cap))["falseAlarms"]["trainer"] for cap in CAPS}
    found = delays(options.hangs, options.seed, Model())
    late = sum(delay > within + POLL_SECONDS for delay, within in found)
    hangs = {
        "count": len(found),
        "late": late,
        "median": float(np.median([delay for delay, _ in found])),
        "longest": max(delay for delay, _ in found),
        "overTheBound": round(max(delay - within for delay, within in found), 3),
    }
    told = {"quiet": quiet, "falseAlarmsByLongestStall": by_cap, "hangs": hangs}
    write(options.output, "bench.hangs", told)
    for rule, count in quiet["falseAlarms"].items():
        print(f"{rule:36} {count:>10} false alarms in {options.hours} job-hours")
    for cap, count in by_cap.items():
        print(f"trainer, steps that stall up to {cap:.0f} s {count:>12}")
    print(f"{hangs['count']} hangs: {late} late, median {hangs['median']:.0f} s, longest {hangs['longest']:.0f} s")


if __name__ == "__main__":
    main()
