"""What is counted as pods come and go equals what counting anew would give."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from internlm2_operator.runtime.world import World
from internlm2_spec import contract
from tests.unit.runtime.test_evidence import job_with_fault
from tests.unit.runtime.test_world import GPU, node, pod

NODES, UIDS, JOBS = ("n1", "n2", "n3"), ("a", "b", "c", "d"), ("demo", "other")

Step = tuple[str, str, str, str, int]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(("pod", "no pod", "foreign", "no foreign", "node", "no node", "job", "no job")),
        st.sampled_from(UIDS),
        st.sampled_from(NODES),
        st.sampled_from(JOBS),
        st.integers(0, 4),
    ),
    max_size=40,
)


class Model:
    """The same cluster as plain dictionaries, asked by counting."""

    def __init__(self) -> None:
        self.pods: dict[str, tuple[str, str, int]] = {}  # job, node, GPUs
        self.foreign: dict[str, tuple[str, int]] = {}
        self.nodes: set[str] = set()
        self.jobs: dict[str, str] = {}  # its faulty node

    def used(self, name: str) -> int:
        held = [gpus for _, where, gpus in self.pods.values() if where == name]
        return sum(held) + sum(gpus for where, gpus in self.foreign.values() if where == name)


def played(steps: list[Step]) -> tuple[World, Model]:
    """Play the same events to both; uids are used once, as the API server does."""
    world, model = World(), Model()
    for version, (what, uid, name, job, gpus) in enumerate(steps, start=1):
        match what:
            case "pod" if uid not in model.pods or model.pods[uid][0] == job:
                world.put_pod(labelled(pod(version, f"{uid}-{job}", gpus=gpus), name, job))
                model.pods[uid] = (job, name, gpus)
            case "no pod" if uid in model.pods:
                gone = model.pods.pop(uid)[0]
                world.drop_pod(f"ns/{gone}", f"{uid}-{gone}")
                world._versions.buried.clear()  # the model has few uids and gives them out again
            case "foreign":
                world.put_foreign_pod(labelled(pod(version, f"foreign-{uid}", gpus=gpus), name, job))
                model.foreign[uid] = (name, gpus)
            case "no foreign":
                world.drop_foreign_pod(f"foreign-{uid}")
                world._versions.buried.clear()
                model.foreign.pop(uid, None)
            case "node":
                world.put_node(named(node(version), name))
                model.nodes.add(name)
            case "no node":
                world.drop_node(name, f"uid of {name}")
                world._versions.buried.clear()
                model.nodes.discard(name)
            case "job":
                world.put_job(striking(version, job, name))
                model.jobs[job] = name
            case "no job":
                world.drop_job(f"ns/{job}", f"uid of {job}")
                world._versions.buried.clear()
                model.jobs.pop(job, None)
        world.nodes(GPU)  # a view that exists is kept up to date from here on
    return world, model


@given(STEPS)
def test_room_is_what_counting_anew_would_give(steps: list[Step]) -> None:
    world, model = played(steps)
    assert [(n.name, n.gpus, n.used) for n in world.nodes(GPU).values()] == [
        (n, 8, model.used(n)) for n in sorted(model.nodes)
    ]


@given(STEPS)
def test_the_pods_and_jobs_of_a_node_are_what_a_search_would_find(steps: list[Step]) -> None:
    world, model = played(steps)
    for name in NODES:
        on = {(f"{uid}-{job}", name) for uid, (job, where, _) in model.pods.items() if where == name}
        assert {(p.uid, p.node) for p in world.pods_on(name)} == on
        holding = {f"ns/{job}" for job, where, _ in model.pods.values() if where == name}
        struck = {f"ns/{job}" for job, where in model.jobs.items() if where == name}
        assert world.jobs_of_node(name) == holding | struck


def test_a_heartbeat_of_a_node_is_no_news_and_a_pod_that_moves_nothing_neither() -> None:
    world = World()
    assert [world.put_node(node(1)), world.put_node(node(2)), world.put_node(node(3, ready="False"))] == [
        True, False, True,
    ]  # fmt: skip
    assert [world.put_pod(pod(4)), world.put_pod(pod(5)), world.put_pod(pod(6, phase="Failed"))] == [True, False, True]


def labelled(raw: dict[str, Any], name: str, job: str) -> dict[str, Any]:
    raw["spec"]["nodeName"] = name
    raw["metadata"]["labels"][contract.LABEL_JOB] = job
    return raw


def named(raw: dict[str, Any], name: str) -> dict[str, Any]:
    raw["metadata"] |= {"name": name, "uid": f"uid of {name}"}
    return raw


def striking(version: int, job: str, name: str) -> dict[str, Any]:
    """Return a job with one open fault on a node."""
    raw = job_with_fault()
    raw["metadata"] |= {"name": job, "uid": f"uid of {job}", "resourceVersion": str(version)}
    raw["status"]["faults"][0]["node"] = name
    return raw
