"""From `helm install` into a new namespace to the first training step of manifests/quickstart.yaml, in the lab.

    python -m lab enter -- python -m bench.install [--runs 5] [--output bench/results/install.json]

Each run begins without the chart, its definitions and namespaces. Images are present on the nodes, the corpus and the
Secret are made before. Kubelets, torchrun and S3 are real, GPUs are simulated, training is fp32 on the CPU.
"""

import argparse
import os
import time
from typing import Any, Final

from bench import record
from lab import newcomer, view
from lab.cluster import Lab
from lab.watch import JobWatch

TARGET_SECONDS: Final = 90.0
WITHIN_SECONDS: Final = 600.0


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.install", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="default 5")
    record.add_output(parser, "install")
    options = parser.parse_args()
    lab, load = Lab(), os.getloadavg()[0]
    runs = []
    for number in range(options.runs):
        runs.append(one(lab))
        view.say(f"{number + 1}/{options.runs}: {runs[-1]}")
    seconds = {arrow: record.spread([run[arrow] for run in runs]) for arrow in runs[0]}
    results: dict[str, Any] = {"simulated": ["GPUs"], "loadBefore": load, "target": {"firstStep": TARGET_SECONDS}}
    record.write(options.output, "bench.install", results | {"secondsAfterInstall": seconds})
    return 0


def one(lab: Lab) -> dict[str, float]:
    """Return, after which seconds since `helm install` began, it returned, all pods ran, and a step was done."""
    with newcomer.bare(lab):
        began = time.time()
        newcomer.install()
        installed = time.time()
        newcomer.apply_job()
        with JobWatch(newcomer.JOB, newcomer.TEAM) as watch:
            watch.wait(lambda s: bool(s.starts), seconds=WITHIN_SECONDS, what="ranks")
            watch.wait(lambda s: s.last_step >= 1, seconds=WITHIN_SECONDS, what="the first step")
            started = min(when for when, _ in watch.seen.starts.values())
            stepped = min(step.time for step in watch.seen.steps)
    return {
        "installed": round(installed - began, 2),
        "ranksStarted": round(started - began, 2),
        "firstStep": round(stepped - began, 2),
    }


if __name__ == "__main__":
    raise SystemExit(main())
