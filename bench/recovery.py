"""Latency of each arrow from fault to next step, over node-kills and process-kills in the lab.

Run by `make bench`; writes bench/results/recovery.json and prints a table. GPUs are simulated, the
kubelets, torchrun, Prometheus and S3 server are real; training is fp32 on the CPU.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.machine import machine
from lab import scene, view
from lab.cluster import Lab
from lab.report import ARROWS, bit_equal, seconds_since
from lab.watch import JobWatch, Seen

RENDEZVOUS: Final = "rendezvous"
# The arrows of the operator's record, and, by the logs of the pods, when all members had started ranks again.
REACHED: Final = (*ARROWS[:-2], RENDEZVOUS, *ARROWS[-2:])
RESULTS = Path(__file__).parent / "results" / "recovery.json"


@dataclass(frozen=True, slots=True)
class Injection:
    """Which fault of the lab, and whether it hits the member with rank 0, which hosts the rendezvous store."""

    fault: str
    first: bool


KINDS = {
    "node-kill": Injection("node-kill", first=False),
    "process-kill": Injection("process-kill", first=False),
    "node-kill-rank0": Injection("node-kill", first=True),
    "xid79": Injection("xid", first=False),
    "xid79-rank0": Injection("xid", first=True),
}


def main() -> int:
    """Measure and write the distributions."""
    parser = argparse.ArgumentParser(prog="python -m bench.recovery", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="faults of each kind (default 10)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS)[:2], choices=KINDS, help="default: the first two")
    options = parser.parse_args()
    rounds, kinds = options.rounds, options.kinds
    lab = Lab()
    lab.heal()
    scene.prepare()
    result: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"kinds": {}}
    result |= {"command": "make bench", "machine": machine(), "simulated": ["GPUs"]}
    for kind in kinds:
        result["kinds"][kind] = measure(lab, kind, rounds)
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
        view.say(table(kind, result["kinds"][kind]))
    return 0


def measure(lab: Lab, kind: str, rounds: int) -> dict[str, Any]:
    """Inject `rounds` faults of one kind into one running job and return the distribution of each arrow."""
    name = f"bench-{kind}"
    scene.kubectl("delete", "internlm2job", name, "--ignore-not-found", "--wait=true")
    scene.delete_checkpoints(name)
    scene.apply(scene.job(name, stages__0__steps=100_000))
    samples: list[dict[str, float]] = []
    loads: list[float] = []
    try:
        with JobWatch(name) as watch:
            for number in range(rounds):
                settle(watch)
                loads.append(os.getloadavg()[0])
                samples.append(one_fault(lab, watch, kind))
                view.say(f"{kind} {number + 1}/{rounds}: {samples[-1]}")
                lab.heal()
            equal = bit_equal(watch.seen.steps)
    finally:
        scene.kubectl("delete", "internlm2job", name, "--ignore-not-found", "--wait=true")
        lab.heal()
    arrows = {arrow: spread([s[arrow] for s in samples if arrow in s]) for arrow in REACHED}
    return {
        "rounds": rounds,
        "replayedStepsBitEqual": equal,
        "load": spread(loads),
        "seconds": arrows,
        "samples": samples,
    }


def settle(watch: JobWatch) -> None:
    """Wait until the job has two healthy members and a spare, and a checkpoint newer than its last start."""
    start = watch.seen.last_step
    watch.wait(
        lambda s: s.last_step >= start + 8 and (s.status.get("nodes") or {}).get("ready", 0) >= 3 and not s.open,
        seconds=300,
        what="a settled job",
    )


def one_fault(lab: Lab, watch: JobWatch, kind: str) -> dict[str, float]:
    """Inject one fault, wait until it is closed and a node at fault is cordoned, return the arrows in seconds."""
    before = {f["id"] for f in watch.seen.faults}
    injection = KINDS[kind]
    pod, node = watch.seen.member(first=injection.first)
    injected = time.time()
    match injection.fault:
        case "process-kill":
            lab.fault("process-kill", pod=f"default/{pod}")
        case "node-kill":
            lab.fault("node-kill", node=node)
        case _:
            lab.fault("xid", node=node, gpu=0, xid=79)

    def healed(seen: Seen) -> list[dict[str, Any]]:
        over = seen.closed if injection.fault == "process-kill" else seen.cordoned
        return [fault for fault in over if fault["id"] not in before]

    watch.wait(lambda seen: bool(healed(seen)), seconds=300, what=f"{kind} healed")
    seen = watch.seen
    members = int(seen.job["spec"]["nodes"]["max"])
    return seconds_since(injected, healed(seen)[0]["times"]) | rejoined(dict(seen.starts), injected, members)


def rejoined(starts: Mapping[str, tuple[float, int]], injected: float, members: int) -> dict[str, float]:
    """Return after how many seconds as many pods as train had started ranks since, nothing while they have not.

    `starts` holds the newest start of each pod: of several rounds of the rendezvous the last counts.
    """
    since = sorted(when - injected for when, _ in starts.values() if when > injected)
    return {RENDEZVOUS: round(since[members - 1], 2)} if len(since) >= members else {}


def spread(values: list[float]) -> dict[str, float] | None:
    """Return count, median, 95th percentile and maximum."""
    if not values:
        return None
    ordered = sorted(values)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"n": len(ordered), "median": round(statistics.median(ordered), 2), "p95": p95, "max": ordered[-1]}


def table(kind: str, result: dict[str, Any]) -> str:
    """Return one kind's distribution as text."""
    rows = [f"{kind}: seconds after the injection, {result['rounds']} rounds"]
    rows += [
        f"  {arrow:<12} median {s['median']:>7.2f}  p95 {s['p95']:>7.2f}" for arrow, s in result["seconds"].items() if s
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    sys.exit(main())
