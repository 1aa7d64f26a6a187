"""What `internlm2 simulate` prints. Pure: results in, lines out."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from internlm2_operator.simulate.account import LOST, Part
from internlm2_operator.simulate.advice import Advice
from internlm2_operator.simulate.result import Result
from internlm2_operator.simulate.scenario import Scenario
from internlm2_operator.simulate.times import Times, told

MOST_ROWS = 12


@dataclass(frozen=True, slots=True)
class Answer:
    """What was simulated: `results` by seed, `slow` the same with every recovery `against` minutes long."""

    scenario: Scenario
    times: Times
    results: Sequence[Result]
    slow: Sequence[Result]
    against: float
    advice: Advice


def lines(answer: Answer) -> Iterator[str]:
    """Yield the answer as people read it."""
    scenario, one = answer.scenario, median(answer.results)
    gpus = scenario.nodes * scenario.gpus_per_node
    yield f"{gpus:,} GPUs on {scenario.nodes:,} nodes, {scenario.spares} spares and {scenario.free_nodes} free nodes"
    yield f"  for {scenario.days:g} days; faults: {source(scenario)}"
    yield f"  seeds {', '.join(str(r.seed) for r in answer.results)}"
    yield ""
    yield _ettr("ETTR with the recovery below", answer.results)
    if answer.slow:
        yield _ettr(f"ETTR if every recovery took {answer.against:g} min", answer.slow)
    yield f"seed {one.seed}, the median, and all that follows:"
    yield f"  {one.faults} faults, {one.interruptions} interruptions, {one.attempts} attempts, {one.outs} repairs"
    yield ""
    yield from _parts(one)
    yield ""
    yield from _causes(one)
    yield ""
    yield from _advice(scenario, one, answer.advice)
    yield ""
    yield "seconds of each part, and where they are from:"
    yield from (f"  {value:>20}  {what} ({origin})" for what, value, origin in told(answer.times))


def document(answer: Answer) -> dict[str, Any]:
    """Return the same as JSON holds it."""
    scenario, advice, slow = answer.scenario, answer.advice, answer.slow
    return {
        "nodes": scenario.nodes,
        "gpusPerNode": scenario.gpus_per_node,
        "spares": scenario.spares,
        "freeNodes": scenario.free_nodes,
        "days": scenario.days,
        "faultsFrom": source(scenario),
        "ettr": _spread(answer.results),
        "against": {"recoveryMinutes": answer.against, "ettr": _spread(slow)} if slow else None,
        "advice": {
            "everySteps": advice.every_steps,
            "memoryEverySteps": advice.memory_every_steps,
            "spares": advice.spares,
            "meanNodesOut": round(advice.out_mean, 2),
        },
        "seconds": [{"what": what, "value": value, "from": origin} for what, value, origin in told(answer.times)],
        "seeds": [_one(result) for result in answer.results],
    }


def median(results: Sequence[Result]) -> Result:
    """Return the result in the middle by ETTR; of an even number the lower one."""
    return sorted(results, key=lambda r: (r.ettr, r.seed))[(len(results) - 1) // 2]


def source(scenario: Scenario) -> str:
    if scenario.trace is not None:
        return f"{len(scenario.trace)} of a file"
    return f"{scenario.mix.name} ({scenario.mix.source})"


def _ettr(what: str, results: Sequence[Result]) -> str:
    values = [r.ettr for r in results]
    return f"{what:<40} median {statistics.median(values):7.2%}  least {min(values):7.2%}  most {max(values):7.2%}"


def _spread(results: Sequence[Result]) -> dict[str, float]:
    values = [r.ettr for r in results]
    return {
        "median": round(statistics.median(values), 5),
        "min": round(min(values), 5),
        "max": round(max(values), 5),
        "n": len(values),
    }


def _one(result: Result) -> dict[str, Any]:
    return {
        "seed": result.seed,
        "ettr": round(result.ettr, 5),
        "faults": result.faults,
        "interruptions": result.interruptions,
        "attempts": result.attempts,
        "nodesOut": result.outs,
        "mostNodesOut": result.most_out,
        "plans": result.plans,
        "gpuHours": {part: round(hours, 1) for part, hours in result.hours.items()},
        "causes": [
            {"cause": row.cause, "faults": row.faults, "interruptions": row.interruptions}
            | {part: round(hours, 1) for part, hours in row.hours.items()}
            for row in result.rows
        ],
    }


def _parts(result: Result) -> Iterator[str]:
    whole = sum(result.hours.values())
    yield f"GPU-hours{'':<26}{whole:>14,.0f}"
    for part in Part:
        if hours := result.hours[part]:
            yield f"  {part:<11} {_bar(hours / whole):<20} {hours:>14,.0f} {hours / whole:>8.2%}"


def _bar(part: float) -> str:
    return "#" * max(1, round(20 * part))


def _causes(result: Result) -> Iterator[str]:
    yield f"{'GPU-hours lost by cause':<34}{'n':>5}" + "".join(f"{part:>10}" for part in LOST) + f"{'all':>10}"
    shown, rest = result.rows[:MOST_ROWS], result.rows[MOST_ROWS:]
    for row in shown:
        hours = "".join(f"{row.hours[part]:>10,.0f}" for part in LOST)
        yield f"  {row.cause[:31]:<32}{row.interruptions:>5}{hours}{row.total:>10,.0f}"
    if rest:
        hours = "".join(f"{sum(row.hours[part] for row in rest):>10,.0f}" for part in LOST)
        total = sum(row.total for row in rest)
        yield f"  {f'{len(rest)} more':<32}{sum(r.interruptions for r in rest):>5}{hours}{total:>10,.0f}"


def _advice(scenario: Scenario, result: Result, advice: Advice) -> Iterator[str]:
    yield "advice:"
    yield (
        f"  spares: {advice.spares} cover the nodes in repair 99% of the time ({advice.out_mean:.1f} on average,"
        f" {result.most_out} at most in this run); asked for: {scenario.spares + scenario.free_nodes}"
    )
    yield f"  checkpoint.everySteps: {advice.every_steps}; asked for: {scenario.every_steps}"
    if scenario.memory_every_steps:
        yield f"  checkpoint.memoryEverySteps: {advice.memory_every_steps}; asked for: {scenario.memory_every_steps}"
