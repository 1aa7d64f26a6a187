"""What an AppDef changes in a manifest, and what it may not ask for."""

import warnings
from typing import Any

import pytest
from torchx.components import dist
from torchx.specs import AppDef, AppState, Resource, Role

from internlm2_operator.api.status import JobStatus, Phase, set_condition
from internlm2_operator.plan.snapshot import PodPhase, PodRecord
from internlm2_spec.config import Refused
from internlm2_torchx import appdef
from tests.api.jobs import job
from tests.unit.plan.world import T0
from tests.unit.plan.world import job as small


def component(shape: str = "torchrun", **asked: Any) -> AppDef:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made: AppDef = getattr(dist, shape)(**({"m": "internlm2_trainer", "j": "2:4x8"} | asked))
    return made


@pytest.mark.parametrize("shape", ["ddp", "torchrun"])
def test_nodes_come_from_the_component_and_the_rest_from_the_file(shape: str) -> None:
    base = job({"nodes": {"min": 1, "max": 1, "gpusPerNode": 1, "spares": 1, "resourceName": "amd.com/gpu"}})
    spec = appdef.manifest(component(shape, j="3:6x4"), base, None)["spec"]
    assert spec["nodes"] == {"min": 3, "max": 6, "gpusPerNode": 4, "spares": 1, "resourceName": "amd.com/gpu"}
    assert spec["stages"] == base["spec"]["stages"]


def test_a_size_without_a_minimum_is_both_bounds() -> None:
    assert appdef.manifest(component(j="4x8"), job(), None)["spec"]["nodes"] == {"min": 4, "max": 4, "gpusPerNode": 8}


def test_the_file_is_not_changed() -> None:
    base = job()
    appdef.manifest(component(), base, "elsewhere")
    assert base == job()


@pytest.mark.parametrize(("image", "wanted"), [({}, "mine:1"), ({"image": "theirs:2"}, "theirs:2")])
def test_torchx_s_own_image_is_nobody_s_wish(image: dict[str, str], wanted: str) -> None:
    made = appdef.manifest(component(**image), job({"template.image": "mine:1"}), None)
    assert made["spec"]["template"]["image"] == wanted


def test_env_is_joined_by_name_and_macros_are_filled_in() -> None:
    base = job({"template.env": [{"name": "A", "value": "old"}, {"name": "B", "value": "kept"}]})
    made = appdef.manifest(component(env={"A": "new", "ID": "${app_id}"}), base, "team")
    env = {entry["name"]: entry["value"] for entry in made["spec"]["template"]["env"]}
    assert (env["A"], env["B"], env["ID"]) == ("new", "kept", "team:job")


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [({}, {"cpu": "1"}), ({"cpu": 64, "memMB": 2048}, {"cpu": "64", "memory": "2048Mi"})],
    ids=["defaults of the component", "given"],
)
def test_cpu_and_memory_are_requests_when_somebody_asked(asked: dict[str, Any], wanted: dict[str, str]) -> None:
    made = appdef.manifest(component(**asked), job({"template.resources": {"requests": {"cpu": "1"}}}), None)
    assert made["spec"]["template"]["resources"]["requests"] == wanted


@pytest.mark.parametrize(("namespace", "wanted"), [(None, "default"), ("team", "team")])
def test_the_namespace_is_the_option_s_else_the_file_s(namespace: str | None, wanted: str) -> None:
    assert appdef.manifest(component(), job(), namespace)["metadata"]["namespace"] == wanted


def test_retries_are_restarts() -> None:
    assert appdef.manifest(component(max_retries=3), job(), None)["spec"]["failurePolicy"] == {"maxRestarts": 3}
    assert "failurePolicy" not in appdef.manifest(component(), job(), None)["spec"]


REFUSED: dict[str, tuple[AppDef, str]] = {
    "another module": (component(m="my.train"), "-m: `my.train` is not what an InternLM2Job runs"),
    "a script": (component(m=None, script="train.py"), "-m: `train.py` is not"),
    "another component": (
        AppDef("x", roles=[Role("a", "i", entrypoint="echo", args=["hi"])]), "component: its command is `echo`",
    ),
    "two roles": (AppDef("x", roles=[Role("a", "i"), Role("b", "i")]), "roles: the app has 2"),
    "more GPUs than processes": (component(gpu=4), "--gpu: 4 GPUs and 8 processes on a node"),
    "mounts": (component(mounts=["type=bind", "src=/a", "dst=/b"]), "mounts: 1 are asked for"),
    "devices": (
        AppDef("x", roles=[Role("a", "i", entrypoint="torchrun", args=["--nproc_per_node=1", "-m", "internlm2_trainer"],
                                resource=Resource(1, 1, 1, devices={"efa": 1}))]), "-h: devices efa",
    ),
    "no number of processes": (
        AppDef("x", roles=[Role("a", "i", entrypoint="torchrun", args=["-m", "internlm2_trainer"])]), "-j: no number",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_job_does_not_have_is_refused_and_not_dropped(name: str) -> None:
    app, words = REFUSED[name]
    with pytest.raises(Refused) as caught:
        appdef.manifest(app, job(), None)
    assert str(caught.value).startswith(words)


def test_every_phase_has_a_state() -> None:
    assert set(appdef.STATES) == set(Phase)


def test_a_cancelled_job_is_cancelled_until_it_ended_by_itself() -> None:
    suspended = small(suspend=True)
    assert appdef.state(suspended) is AppState.CANCELLED
    done = suspended.model_copy(update={"status": JobStatus(phase=Phase.SUCCEEDED, completion_time=T0)})
    assert appdef.state(done) is AppState.SUCCEEDED


def test_replicas_are_the_slots_of_the_current_attempt() -> None:
    pods = [
        PodRecord(f"p{slot}{attempt}", "default", "demo", "u", 0, attempt, slot, 0, "n", phase, T0)
        for slot, attempt, phase in [(0, 1, PodPhase.FAILED), (0, 2, PodPhase.RUNNING), (1, 2, PodPhase.PENDING)]
    ]
    conditions = set_condition((), "Progressing", status="False", reason="Starting", message="", generation=1, now=T0)
    status = JobStatus(phase=Phase.STARTING, attempt=2, size=2, conditions=conditions)
    told = appdef.described(small().model_copy(update={"status": status}), pods)
    assert [(one.id, one.state) for one in told.roles_statuses[0].replicas] == [
        (0, AppState.RUNNING),
        (1, AppState.PENDING),
    ]
    assert (told.app_id, told.state, told.msg) == ("default:demo", AppState.PENDING, "Starting")


def test_an_id_without_a_namespace_is_in_default() -> None:
    assert (appdef.parse_id("a:b"), appdef.parse_id("b")) == (("a", "b"), ("default", "b"))
