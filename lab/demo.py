"""`make demo`: a job trains, a node dies, a GPU falls off the bus, and nobody helps.

Run inside the lab's network namespace by `python -m lab demo`.
"""

import json
import sys
import time
from pathlib import Path

from internlm2_spec.contract import ANNOTATION_FAULT
from lab import report, scene, view
from lab.cluster import Lab
from lab.watch import JobWatch, Seen

NAME = "demo"
OUT = Path("out/demo")
FIRST_FAULT_AFTER_STEP = 12
STEPS_BETWEEN_FAULTS = 12
FINISH_SECONDS = 1200
LOOK_AROUND = (
    "python3 -m lab kubectl get ilj,pods,nodes -o wide",
    "python3 -m lab kubectl describe ilj demo",
    "python3 -m lab logs operator",
)


def main() -> int:
    """Play the demo; return 0 only if the job healed itself twice and replayed to the last bit."""
    lab = Lab()
    with view.step("bucket, corpus, operator (helm install), secret"):
        scene.prepare()
        scene.kubectl("delete", "internlm2job", NAME, "--ignore-not-found", "--wait=true")
        scene.delete_checkpoints(NAME)
        lab.heal()
    manifest = scene.TOP / "manifests" / "demo.yaml"
    view.say(f"kubectl apply -f {manifest.relative_to(scene.TOP)}")
    scene.kubectl("apply", "-f", str(manifest))
    injected: dict[str, float] = {}
    with JobWatch(NAME) as watch, view.live(watch.seen):
        play(lab, watch, injected)
    return close(watch.seen, injected)


def play(lab: Lab, watch: JobWatch, injected: dict[str, float]) -> None:
    """Kill the node of the last member, then raise XID 79 under rank 0, then let the job finish."""
    watch.wait(
        lambda seen: seen.last_step >= FIRST_FAULT_AFTER_STEP and seen.midway(),
        seconds=300,
        what="the first checkpoint",
    )
    _, node = watch.seen.member(first=False)
    injected[node] = time.time()
    lab.fault("node-kill", node=node)
    watch.wait(lambda seen: len(seen.cordoned) >= 1, seconds=300, what=f"the fault of {node} closed")
    resumed = watch.seen.last_step
    watch.wait(
        lambda seen: seen.last_step >= resumed + STEPS_BETWEEN_FAULTS and seen.midway(),
        seconds=300,
        what="training after the node fault",
    )
    _, node = watch.seen.member(first=True)
    injected[node] = time.time()
    lab.fault("xid", node=node, gpu=0, xid=79)
    watch.wait(lambda seen: len(seen.cordoned) >= 2, seconds=300, what=f"the fault of {node} closed")
    watch.wait(
        lambda seen: seen.status.get("phase") in ("Succeeded", "Failed"),
        seconds=FINISH_SECONDS,
        what="the end of the job",
    )


def operator_cordons() -> set[str]:
    """Return the nodes whose cordon the operator made: its annotation, and its name as the field's manager."""
    found = set()
    for node in json.loads(scene.kubectl("get", "nodes", "-o", "json", "--show-managed-fields"))["items"]:
        meta = node["metadata"]
        managers = {
            m["manager"] for m in meta["managedFields"] if "f:unschedulable" in m.get("fieldsV1", {}).get("f:spec", {})
        }
        note = meta.get("annotations", {}).get(ANNOTATION_FAULT)
        if node["spec"].get("unschedulable") and note and managers == {"internlm2-operator"}:
            found.add(meta["name"])
    return found


def close(seen: Seen, injected: dict[str, float]) -> int:
    """Write and print the results; return the exit code."""
    cordoned = operator_cordons()
    result = report.summary(seen.status, seen.steps, injected, cordoned)
    report.write(OUT, result, seen.steps, seen.faults, injected)
    view.say("\nFrom fault to next step, seconds after the injection (GPUs are simulated, all else is real):")
    view.say(report.timeline_text(seen.faults, injected))
    view.say(f"\npictures: {OUT}/loss.png {OUT}/timeline.png")
    view.say("look around:")
    for command in LOOK_AROUND:
        view.say(f"    {command}")
    view.say("take it down: make lab-down\n")
    print(json.dumps(result), flush=True)
    problems = verdict(result, injected, cordoned)
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    return 1 if problems else 0


def verdict(result: dict[str, object], injected: dict[str, float], cordoned: set[str]) -> list[str]:
    """Return what keeps the demo from being a success; empty when it is one."""
    first, last = result["lossFirst"], result["lossLast"]
    checks = {
        f"the job ended {result['phase']}, not Succeeded": result["phase"] == "Succeeded",
        f"cordoned by the operator: {sorted(cordoned)}, at fault: {sorted(injected)}": cordoned == set(injected),
        "no step was computed twice, or one gave another loss": result["replayedStepsBitEqual"],
        f"the loss did not fall: {first} -> {last}": isinstance(first, float)
        and isinstance(last, float)
        and last < first,
    }
    return [problem for problem, held in checks.items() if not held]


if __name__ == "__main__":
    sys.exit(main())
