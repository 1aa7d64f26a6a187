"""`make bench-operator`: section by section what the operator does under load, each figure beside its target.

    python -m bench.operator [--nodes 5000] [--jobs 1000] [--storm-seconds 120] [--output bench/results/operator.json]

etcd and kube-apiserver are real and share the machine's cores with the operator and this harness. Kubelets,
trainers and the S3 server are simulated in the harness: they say that pods run, which step they are at, and that
data are there. Pods are not bound to nodes, no controller and no scheduler runs. The storm is put into etcd,
because the API server could not write it on two cores; everything else goes through the API server.
About 11 minutes on two quiet cores at full size.
"""

import argparse
import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

from bench import record
from bench.operator import measures
from bench.operator.client import say
from bench.operator.scene import Scene, Sizes, stage
from bench.operator.table import table


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Set the scene and measure everything; a figure that could not be measured does not stop the others."""
    members = options.members
    nodes = options.nodes
    sizes = Sizes(nodes, options.jobs, members, big=nodes // 4, cordons=nodes * 15 // 100)
    results: dict[str, Any] = {"nodes": nodes, "jobs": sizes.jobs, "pods": sizes.pods}
    async with stage(sizes) as scene:
        results["bareNodesPerSecond"] = round(await scene.make_nodes(), 1)
        await scene.start_operator()
        results["fill"] = await scene.make_jobs()
        say(f"{sizes.pods} pods run: {results['fill']}")
        await asyncio.sleep(options.settle_seconds)
        await _sections(scene, options, results)
        if options.keep_log:
            options.keep_log.write_bytes(scene.operator.log.read_bytes())
    return results


async def _sections(scene: Scene, options: argparse.Namespace, results: dict[str, Any]) -> None:
    sections = {
        "steady": lambda: measures.steady(scene, options.steady_seconds),
        "events": lambda: measures.events(scene, rate=options.rate, seconds=options.event_seconds),
        "creation": lambda: measures.creation(scene),
        "storm": lambda: measures.flood(scene, rate=options.storm_rate, seconds=options.storm_seconds),
        "start": lambda: measures.start(scene),
        "cordons": lambda: measures.cordons(scene),
    }
    for name in options.only or sections:
        began = time.monotonic()
        results[name] = await sections[name]() | {"load": round(os.getloadavg()[0], 1)}
        say(f"{name}, {time.monotonic() - began:.0f} s: {results[name]}")


def main() -> int:
    """Measure, write the figures and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.operator", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--nodes", type=int, default=5000, help="nodes (default 5000); a quarter of them take the big job")
    add("--jobs", type=int, default=1000, help="jobs (default 1000)")
    add("--members", type=int, default=10, help="pods of each job (default 10)")
    add("--rate", type=float, default=50.0, help="events a second (default 50)")
    add("--settle-seconds", type=float, default=20.0, help="rest before the first section (default 20)")
    add("--steady-seconds", type=float, default=60.0, help="length of the steady section (default 60)")
    add("--event-seconds", type=float, default=90.0, help="length of the section with events (default 90)")
    add("--storm-rate", type=int, default=2000, help="events a second of the storm (default 2000)")
    add("--storm-seconds", type=float, default=120.0, help="length of the storm (default 120)")
    add("--only", nargs="+", choices=("steady", "events", "creation", "storm", "start", "cordons"))
    add("--keep-log", type=Path, help="where to keep the operator's log")
    record.add_output(parser, "operator")
    options = parser.parse_args()
    results = asyncio.run(measure(options))
    record.write(options.output, "bench.operator", results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
