"""From a fault to the next step, in the lab: process and node kills of `bench.recovery`, each split by arrow.

With Kubernetes' own timings a node controller waits 50 s (1.32 and later) for a node's word, in the lab 8 s; kubelets
renew their lease as often as the lab tells them, so that their silence begins up to 10 s later than it might elsewhere.
torchrun waits for neither: a spare is in the rendezvous when the keep-alive of the dead member has lapsed.
Each fourth process kill of a pod ends the pod, whose place the spare takes.
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from bench import recovery
from bench.health.figures import Sample, against
from lab import scene
from lab.cluster import Lab

CONTROLLER: Final = "kube-controller-manager"
# The last of two equal flags counts.
DEFAULTS: Final = ("--node-monitor-grace-period=50s", "--node-monitor-period=5s")
TARGETS: Final = {
    "process-kill": {"closed": 30.0},
    "node-kill": {"closed": 60.0, recovery.RENDEZVOUS: 45.0},
}
SIMULATED: Final = ("GPUs", "machines: network namespaces with real kubelets")


def measure(runs: int) -> dict[str, Any]:
    """Kill processes, then nodes beside a warm spare, each so many times."""
    return _told(Lab(), ("process-kill", "node-kill"), runs) | {"nodeGrace": "the lab's, 8 s"}


def measure_default(runs: int) -> dict[str, Any]:
    """Kill nodes while the node controller has the timings that Kubernetes gives it."""
    lab = Lab()
    with _default_timings(lab):
        return _told(lab, ("node-kill",), runs) | {"nodeGrace": "Kubernetes' own, 50 s"}


def _told(lab: Lab, kinds: tuple[str, ...], runs: int) -> dict[str, Any]:
    lab.heal()
    scene.prepare()
    return {"simulated": list(SIMULATED)} | {kind: figures(kind, recovery.measure(lab, kind, runs)) for kind in kinds}


def figures(kind: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Return what `bench.recovery` measured of a kind as distributions beside their targets."""
    samples: list[Sample] = measured["samples"]
    beside = {key: measured[key] for key in ("replayedStepsBitEqual", "load")}
    return against(samples, recovery.REACHED, TARGETS[kind]) | beside


@contextlib.contextmanager
def _default_timings(lab: Lab) -> Iterator[None]:
    lab.control.kill(CONTROLLER)
    lab.control.start(CONTROLLER, *DEFAULTS)
    try:
        yield
    finally:
        lab.control.kill(CONTROLLER)
        lab.control.start(CONTROLLER)
