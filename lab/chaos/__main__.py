"""`python -m lab chaos`: run inside the lab's network namespace."""

import json
import sys
import time
from typing import Any, Final

from bench.machine import machine
from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.manifest import parse_manifest, published
from lab import scene, view
from lab.chaos import judge, picture
from lab.chaos.cordons import CordonWatch
from lab.chaos.deck import Planned
from lab.chaos.logs import LogWatch
from lab.chaos.options import Shaken, parse
from lab.chaos.run import Run, Unsettled, finish
from lab.cluster import Lab
from lab.settings import LabError
from lab.watch import JobWatch

CALM: Final = "calm"
SHAKEN: Final = "chaos"
KEEP: Final = 3  # checkpoints
CALM_SECONDS: Final = 3600.0
PODS_GONE_SECONDS: Final = 120.0


def main() -> int:
    """Run the faults of each seed; 0 when nothing was found, 1 when something was, 2 for a mistake."""
    options, lab = parse(sys.argv[1:]), Lab()
    calm = undisturbed(lab, options.steps)
    wells = [_well(run, shake(lab, run.plan, calm)) for run in options.runs]
    return 0 if all(wells) else 1


def _well(run: Shaken, ended: judge.Ended) -> bool:
    """Write the report of a run and its picture, and say whether all is as it has to be."""
    result: dict[str, Any] = {
        "command": " ".join(["python -m lab chaos", *sys.argv[1:]]),
        "seed": run.seed,
        "machine": machine(),
        "simulated": ["GPUs", "kernel log"],
    } | judge.report(ended)
    for path in (run.output, run.picture):
        path.parent.mkdir(parents=True, exist_ok=True)
    run.output.write_text(json.dumps(result, indent=1) + "\n")
    picture.draw(result, ended.steps, run.picture)
    view.say(f"report {run.output}, picture {run.picture}")
    for problem in result["problems"]:
        view.say(f"chaos: {problem}")
    view.say(f"chaos: {len(ended.outcomes)} faults, {'all is well' if result['ok'] else 'NOT well, see above'}")
    return bool(result["ok"])


def undisturbed(lab: Lab, steps: int) -> dict[int, str]:
    """Return the exact loss of every step of a run that nothing happens to."""
    lab.heal()
    view.say("GPUs and kernel log are simulated; kubelets, torchrun, S3, Prometheus and training (on the CPU) are real")
    with view.step("bucket, corpus, operator, node agents"):
        scene.prepare()
        finish(CALM)
    with view.step(f"{steps} steps undisturbed"):
        return _calm(lab, steps)


def shake(lab: Lab, plan: tuple[Planned, ...], calm: dict[int, str]) -> judge.Ended:
    """Train as many steps as `calm` under the plan, and return all that was seen."""
    finish(SHAKEN)
    body = _job(SHAKEN, len(calm))
    scene.apply(body)
    try:
        with LogWatch(lab.state, SHAKEN) as logs, CordonWatch() as cordons, JobWatch(SHAKEN) as watch:
            run = Run(lab, watch, plan, f"{scene.BUCKET}/{SHAKEN}", cordons)
            stopped = ""
            try:
                run.play()
            except Unsettled as error:
                stopped = str(error)
            lab.heal()
            _pods_gone(watch)
        stage = body["spec"]["stages"][0]["name"]
        return judge.Ended(
            tuple(run.outcomes), len(plan), str(watch.seen.status.get("phase")), dict(watch.seen.history),
            frozenset(logs.steps | set(watch.seen.steps)), calm, tuple(cordons.seen.values()),
            {name: pod["phase"] for name, pod in watch.seen.pods.items()}, stage, KEEP,
            *_stored(SHAKEN, stage), stopped,
        )  # fmt: skip
    finally:
        finish(SHAKEN)


def _job(name: str, steps: int) -> dict[str, Any]:
    # Steps of a quarter of the demo's tokens: a fault takes as long however short they are, and the undisturbed run
    # is as long as all of them. Two nodes in five minutes is what the breaker lets through by default, and fewer than
    # break here.
    return scene.job(
        name, stages__0__steps=steps, stages__0__globalBatchTokens=2048, stages__0__parallel__microBatch=4,
        checkpoint__everySteps=10, checkpoint__keep=KEEP, health={"maxCordonPercent": 100},
    )  # fmt: skip


def _calm(lab: Lab, steps: int) -> dict[int, str]:
    scene.apply(_job(CALM, steps))
    with LogWatch(lab.state, CALM) as logs, JobWatch(CALM) as watch:
        watch.wait(lambda s: s.status.get("phase") in ("Succeeded", "Failed"), seconds=CALM_SECONDS, what="the end")
    losses = {step.step: step.loss_hex for step in logs.steps | set(watch.seen.steps)}
    if watch.seen.history or sorted(losses) != list(range(1, steps + 1)):
        raise LabError(f"the undisturbed run was disturbed: {list(watch.seen.history.values())}, {len(losses)} steps")
    finish(CALM)
    return losses


def _pods_gone(watch: JobWatch) -> None:
    """Give pods of an ended job the time to go."""
    until = time.monotonic() + PODS_GONE_SECONDS
    while watch.seen.pods and time.monotonic() < until:
        time.sleep(1.0)


def _stored(job: str, stage: str) -> tuple[frozenset[str], dict[int, tuple[str, ...]]]:
    """Return the keys below a job's checkpoints, and the objects that each published step names."""
    client: Any = scene.s3()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=scene.BUCKET, Prefix=f"{job}/")
    keys = frozenset(item["Key"].removeprefix(f"{job}/") for page in pages for item in page.get("Contents", []))
    manifests = {}
    for step in published(keys, stage):
        key = f"{job}/{step_prefix(stage, step)}/{MANIFEST_NAME}"
        text = client.get_object(Bucket=scene.BUCKET, Key=key)["Body"].read().decode()
        manifests[step] = tuple(stored.name for stored in parse_manifest(text).objects)
    return keys, manifests


if __name__ == "__main__":
    sys.exit(main())
