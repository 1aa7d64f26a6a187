"""The loop on real kubelets: faults are injected, the job heals, nobody helps.

Each test counts the fault it injected before it claims that the job survived it.
"""

import time

from lab import scene
from lab.report import agree, bit_equal, replayed
from tests.e2e.world import World


def test_job_survives_application_xid_silent_kubelet_process_kill_and_suspension(world: World) -> None:
    """One job, four disturbances: none is a node's fault, so no node is cordoned. Deleted, it leaves checkpoints."""
    with world.job("gentle", stages__0__steps=4000) as watch:
        watch.wait(lambda s: s.checkpoint >= 5 and s.last_step >= 7, seconds=240, what="first checkpoint")

        _, node = watch.seen.member(first=False)
        world.lab.fault("xid", node=node, gpu=0, xid=31)
        noted = watch.seen.last_step
        watch.wait(lambda s: s.last_step >= noted + 15, seconds=120, what="steps after XID 31")
        assert world.cordoned() == set()

        stopped = world.lab.fault("kubelet-stop", node=node)
        watch.wait(lambda _: not world.lab.node_is_ready(node), seconds=60, what="a node that Kubernetes calls silent")
        noted = watch.seen.last_step
        watch.wait(lambda s: s.last_step >= noted + 15, seconds=120, what="steps beside a silent kubelet")
        assert not world.lab.node_is_ready(node)
        world.lab.undo(stopped)
        watch.wait(lambda _: world.lab.node_is_ready(node), seconds=60, what="the kubelet")
        assert world.cordoned() == set()
        assert watch.seen.faults == [], "its trainers answered all the time"

        watch.wait(lambda s: s.midway(), seconds=60, what="a step between two checkpoints")
        pod, _ = watch.seen.member(first=False)
        killed = world.lab.fault("process-kill", pod=f"default/{pod}")
        assert killed["pid"] > 0
        watch.wait(lambda s: bool(s.closed), seconds=240, what="process-kill healed")
        assert bit_equal(watch.seen.steps), replayed(watch.seen.steps)
        assert world.cordoned() == set()

        scene.kubectl("patch", "ilj", "gentle", "--type=merge", "-p", '{"spec":{"suspend":true}}')
        watch.wait(lambda s: s.status.get("phase") == "Suspended" and not s.pods, seconds=120, what="suspension")
        # The highest step may be one that the kill lost: it is not computed again when the stop comes before it.
        stopped_at = watch.seen.checkpoint
        assert stopped_at == watch.seen.newest_step, "a suspended job keeps every step it computed"
        again = time.time()
        scene.kubectl("patch", "ilj", "gentle", "--type=merge", "-p", '{"spec":{"suspend":false}}')
        watch.wait(lambda s: s.newest_step > stopped_at, seconds=240, what="steps after the suspension")
        assert min(s.step for s in watch.seen.steps if s.time > again) == stopped_at + 1

        scene.kubectl("delete", "internlm2job", "gentle", "--wait=true")
        watch.wait(lambda s: not s.pods, seconds=150, what="pods gone")
        assert [kind for kind in ("pod", "service", "configmap") if world.names(kind, "gentle")] == []
        assert scene.s3().list_objects_v2(Bucket=scene.BUCKET, Prefix="gentle/")["KeyCount"] > 0


def test_node_kill_heals_and_replays_to_the_last_bit(world: World) -> None:
    """The node of the last member loses power; a spare takes over, the operator cordons that node only."""
    with world.job("powerloss", stages__0__steps=40) as watch:
        watch.wait(lambda s: s.checkpoint >= 5 and s.midway(), seconds=240, what="first checkpoint")
        _, node = watch.seen.member(first=False)
        world.lab.fault("node-kill", node=node)
        watch.wait(lambda s: bool(s.cordoned), seconds=300, what="node-kill healed")
        assert world.cordoned() == {node}
        watch.wait(lambda s: s.status.get("phase") == "Succeeded", seconds=300, what="the end of the job")
        assert bit_equal(watch.seen.steps), replayed(watch.seen.steps)
        assert [f["node"] for f in watch.seen.faults] == [node]
        assert watch.seen.faults[0]["cause"] == "NodeNotReady"


def test_operator_killed_in_the_middle_of_a_recovery_finishes_it(world: World) -> None:
    """XID 79 under slot 0 needs a new attempt; the operator dies between cordon and first step."""
    with world.job("headless", stages__0__steps=400) as watch:
        watch.wait(lambda s: s.checkpoint >= 5 and s.midway(), seconds=240, what="first checkpoint")
        _, node = watch.seen.member(first=True)
        world.lab.fault("xid", node=node, gpu=1, xid=79)
        watch.wait(lambda _: world.cordoned() == {node}, seconds=60, what="cordon")
        world.lab.fault("operator-kill")
        watch.wait(lambda s: bool(s.closed), seconds=300, what="recovery by the restarted operator")
        held = [(p["attempt"], p["slot"]) for p in watch.seen.pods.values() if not p["deleting"]]
        assert len(held) == len(set(held)), "no slot is held twice"
        assert len(held) <= 3
        # Its members are asked to stop and may still save their last step, so there may be nothing to replay.
        assert agree(watch.seen.steps), replayed(watch.seen.steps)
