"""What may change in a job, before it begins, while it runs, while it is stopped, and after its end."""

import copy
import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from kubernetes import client

from internlm2_spec import contract
from tests.api.jobs import job, stage

pytestmark = pytest.mark.api

PLACE: Final = (contract.API_GROUP, contract.API_VERSION, "default", contract.PLURAL)
THREE: Final = [stage(name="first"), stage(name="second"), stage(name="third")]
S: Final = "stages.1"
# The second of three stages, with pods, without, and after the end.
RUNNING: Final = {"phase": "Running", "attempt": 4, "stageIndex": 1, "size": 4}
SUSPENDED: Final = RUNNING | {"phase": "Suspended", "attempt": 5, "size": 0}
ENDED: Final = RUNNING | {"phase": "Failed", "completionTime": "2026-01-02T03:04:05.000000Z"}
UNBEGUN: Final = {"phase": "Queued"}

Row = tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]
LATER: Final = "set suspend to true, change it once status.phase is Suspended"
REFUSED: Final[dict[str, Row]] = {
    "another image while pods run": (
        RUNNING,
        {"template": {"image": "new"}},
        ("spec.template", "template differs from what the pods of attempt 4 were made with", LATER),
    ),
    "the interval of checkpoints while pods run": (
        RUNNING,
        {"checkpoint.everySteps": 7},
        ("spec.checkpoint", "attempt 4", LATER),
    ),
    "GPUs of a node while pods run": (RUNNING, {"nodes.gpusPerNode": 16}, ("nodes.gpusPerNode", "attempt 4", LATER)),
    "the resource while pods run": (
        RUNNING,
        {"nodes.resourceName": "amd.com/gpu"},
        ("nodes.resourceName", "attempt 4", LATER),
    ),
    "the layout of the running stage": (
        RUNNING,
        {f"{S}.parallel.zero.shard": 4},
        ("spec.stages", "stage second: parallel differs from what attempt 4 trains with", LATER, "append another"),
    ),
    "the length of the running stage": (RUNNING, {f"{S}.steps": 7}, ("stage second: steps differs", LATER)),
    "the rate of the running stage": (
        RUNNING,
        {f"{S}.optimizer": {"lr": 0.001}},
        ("stage second: optimizer differs", LATER),
    ),
    "the guard of the running stage": (
        RUNNING,
        {f"{S}.guard": {"spike": "Off"}},
        ("stage second: guard differs", LATER),
    ),
    "a suspend and a change in one": (
        RUNNING,
        {"suspend": True, "template": {"image": "new"}},
        ("spec.template", "attempt 4", LATER),
    ),
    "the batch of a stage that has begun": (
        SUSPENDED,
        {f"{S}.globalBatchTokens": 8388608},
        ("stage second: globalBatchTokens 8388608 differs from 4194304 when the stage began", "lower steps to end"),
    ),
    "the sequence length of a stage that has begun": (
        SUSPENDED,
        {f"{S}.sequenceLength": 8192},
        ("stage second: sequenceLength 8192 differs from 4096", "restore it"),
    ),
    "the data of a stage that has begun": (
        SUSPENDED,
        {f"{S}.data.url": "s3://bucket/other"},
        ("stage second: data differs from what it was when the stage began", "restore it"),
    ),
    "the seed of a stage that has begun": (
        SUSPENDED,
        {f"{S}.seed": 1},
        ("stage second: seed 1 differs from 1024", "restore it"),
    ),
    "the rope base of a stage that has begun": (
        SUSPENDED,
        {f"{S}.ropeBase": 1.0e6},
        ("stage second: ropeBase 1e+06 differs from 50000", "restore it"),
    ),
    "a stage that is done": (
        SUSPENDED,
        {"stages.0.steps": 1000},
        ("spec.stages", "stage first is done and cannot change", "append another stage"),
    ),
    "a stage before those that are done": (
        SUSPENDED,
        {"stages": [stage(name="zeroth"), *THREE]},
        ("spec.stages", "the 2 stages up to second, which are done or under way", "restore them in their order"),
    ),
    "the running stage taken away": (
        RUNNING,
        {"stages": [THREE[0]]},
        ("spec.stages", "the 2 stages up to second", "restore them"),
    ),
    "another name for the running stage": (
        RUNNING,
        {f"{S}.name": "other"},
        ("spec.stages", "the 2 stages up to second", "restore them"),
    ),
    "a stage after the end": (
        ENDED,
        {"stages": [*THREE, stage(name="fourth")]},
        ("spec.stages", "ended at 2026-01-02T03:04:05", "delete the job and make it anew", "from its checkpoints"),
    ),
    "another manager": (
        UNBEGUN,
        {"managedBy": "example.com/other"},
        ("spec.managedBy", "example.com/other differs", "training.internlm.io/operator", "make a new job"),
    ),
    "another model": (
        UNBEGUN,
        {"model": {"preset": "internlm2-20b"}},
        ("spec.model", "internlm2-20b differs", "internlm2-7b", "make a new job"),
    ),
    "another checkpoint URL": (
        UNBEGUN,
        {"checkpoint.url": "s3://bucket/other"},
        ("spec.checkpoint.url", "s3://bucket/other differs", "s3://bucket/run"),
    ),
}
ALLOWED: Final[dict[str, tuple[dict[str, Any], dict[str, Any]]]] = {
    "more nodes while pods run": (RUNNING, {"nodes.max": 8}),
    "fewer nodes while pods run": (RUNNING, {"nodes.max": 2}),
    "spares while pods run": (RUNNING, {"nodes.spares": 2}),
    "suspend": (RUNNING, {"suspend": True}),
    "the failure policy": (RUNNING, {"failurePolicy": {"maxRestarts": 0}}),
    "health": (RUNNING, {"health": {"mode": "Observe"}}),
    "the check of a first start": (RUNNING, {"health": {"check": {"firstStart": "None"}}}),
    "the time to live": (RUNNING, {"ttlSecondsAfterFinished": 5}),
    "a stage that has not begun": (RUNNING, {"stages.2.parallel.zero.shard": 4, "stages.2.steps": 7}),
    "another order of stages that have not begun": (RUNNING, {"stages": [*THREE[:2], stage(name="new"), THREE[2]]}),
    "one more stage": (RUNNING, {"stages": [*THREE, stage(name="fourth")]}),
    "the last stage gone": (RUNNING, {"stages": THREE[:2]}),
    "the layout of a suspended stage": (SUSPENDED, {f"{S}.parallel.zero.shard": 4, f"{S}.parallel.recompute": "Full"}),
    "the length and rate of a suspended stage": (SUSPENDED, {f"{S}.steps": 7, f"{S}.optimizer": {"lr": 0.001}}),
    "the template of a suspended job": (SUSPENDED, {"template": {"image": "new"}, "nodes.gpusPerNode": 16}),
    "everything before the first attempt": (
        UNBEGUN,
        {"stages": [stage(name="only", seed=3)], "template": {"image": "new"}, "checkpoint.keep": 9},
    ),
    "the template after the end": (ENDED, {"template": {"image": "new"}}),
}


def changed(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return the object as the API server holds it, edited."""
    return body | {"spec": job({"stages": copy.deepcopy(THREE)} | changes)["spec"]}


@pytest.fixture(scope="module")
def jobs(admin: client.ApiClient) -> Iterator[client.CustomObjectsApi]:
    """The API of jobs; those of this module are removed."""
    custom = client.CustomObjectsApi(admin)
    yield custom
    custom.delete_collection_namespaced_custom_object(*PLACE, label_selector="edits")


@pytest.fixture(scope="module")
def begun(jobs: client.CustomObjectsApi) -> dict[str, dict[str, Any]]:
    """One job for each status, by phase."""
    made: dict[str, dict[str, Any]] = {}
    for status in (RUNNING, SUSPENDED, ENDED, UNBEGUN):
        name = f"edited-{status['phase']}".lower()
        body = job({"stages": THREE, "metadata.name": name, "metadata.labels": {"edits": ""}})
        jobs.create_namespaced_custom_object(*PLACE, body)
        told: Any = jobs.patch_namespaced_custom_object_status(*PLACE, name, {"status": status})
        made[str(status["phase"])] = told
    return made


def replace(jobs: client.CustomObjectsApi, body: dict[str, Any]) -> None:
    jobs.replace_namespaced_custom_object(*PLACE, body["metadata"]["name"], body, dry_run="All")


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, jobs: client.CustomObjectsApi, begun: dict[str, dict[str, Any]]) -> None:
    """The message holds field, value and cure, and it is the only one."""
    status, changes, expected = REFUSED[name]
    with pytest.raises(client.ApiException) as caught:
        replace(jobs, changed(begun[status["phase"]], changes))
    assert caught.value.status == 422, caught.value.body
    told = json.loads(caught.value.body or "")
    assert [part for part in expected if part not in told["message"]] == [], told["message"]
    assert len(told["details"]["causes"]) == 1, told["message"]


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str, jobs: client.CustomObjectsApi, begun: dict[str, dict[str, Any]]) -> None:
    status, changes = ALLOWED[name]
    replace(jobs, changed(begun[status["phase"]], changes))
