"""What people do to a job that runs: none of it is a fault of the job, and all of it is survived."""

import json

from internlm2_spec.contract import ANNOTATION_FAULT
from lab import scene
from lab.report import agree, replayed
from lab.watch import Seen
from tests.e2e.world import World


def test_job_survives_a_deleted_pod_an_edit_and_a_drain_and_leaves_when_deleted_in_a_recovery(world: World) -> None:
    """Nothing of it cordons a node or counts as a failure; the last part loses the node of slot 0."""
    with world.job("handled", stages__0__steps=4000) as watch:
        watch.wait(lambda s: s.checkpoint >= 5, seconds=240, what="first checkpoint")

        pod, _ = watch.seen.member(first=False)
        noted = watch.seen.last_step
        scene.kubectl("delete", "pod", pod, "--wait=false")
        watch.wait(lambda s: s.last_step >= noted + 10 and _quiet(s), seconds=240, what="steps after a deleted pod")

        edit = {"spec": {"failurePolicy": {"maxRestarts": 3}, "nodes": {"spares": 0}}}
        scene.kubectl("patch", "ilj", "handled", "--type=merge", "-p", json.dumps(edit))
        watch.wait(lambda s: len(_living(s)) == 2, seconds=120, what="the spare that nobody wants any more to leave")
        attempt = watch.seen.status["attempt"]

        _, node = watch.seen.member(first=False)
        noted = watch.seen.last_step
        scene.kubectl("drain", node, "--pod-selector=training.internlm.io/job=handled", "--force",
                      "--ignore-daemonsets", "--delete-emptydir-data", "--timeout=100s")  # fmt: skip
        watch.wait(lambda s: s.last_step >= noted + 10 and _quiet(s), seconds=240, what="steps after a drain")
        assert node not in {p["node"] for p in _living(watch.seen)}
        drained = json.loads(scene.kubectl("get", "node", node, "-o", "json"))
        assert ANNOTATION_FAULT not in drained["metadata"].get("annotations", {}), "a drain is nobody's fault"
        scene.kubectl("uncordon", node)
        assert watch.seen.status["attempt"] > attempt
        assert watch.seen.status["restarts"].get("counted", 0) == 0
        assert agree(watch.seen.steps), replayed(watch.seen.steps)

        _, first = watch.seen.member(first=True)
        world.lab.fault("node-kill", node=first)
        watch.wait(lambda s: bool(s.open), seconds=120, what="the fault of slot 0's node")
        scene.kubectl("delete", "internlm2job", "handled", "--wait=true")
        watch.wait(lambda s: not s.pods, seconds=150, what="pods gone, also from the dead node")
        assert [kind for kind in ("pod", "service", "configmap") if world.names(kind, "handled")] == []


def test_slot_0_lost_with_its_node_heals_and_replays_to_the_last_bit(world: World) -> None:
    """The rendezvous store dies with its node: a new attempt, on nodes that live."""
    with world.job("headloss", stages__0__steps=400) as watch:
        watch.wait(lambda s: s.checkpoint >= 5 and s.midway(), seconds=240, what="first checkpoint")
        attempt = watch.seen.status["attempt"]
        _, node = watch.seen.member(first=True)
        world.lab.fault("node-kill", node=node)
        watch.wait(lambda s: bool(s.cordoned), seconds=300, what="node-kill of slot 0 healed")
        assert world.cordoned() == {node}
        assert watch.seen.status["attempt"] == attempt + 1
        assert agree(watch.seen.steps), replayed(watch.seen.steps)


def _living(seen: Seen) -> list[dict[str, object]]:
    return [p for p in seen.pods.values() if p["phase"] == "Running" and not p["deleting"]]


def _quiet(seen: Seen) -> bool:
    return seen.status.get("phase") == "Running"
