"""The pod of one member."""

import dataclasses
from typing import Any

from internlm2_operator.manifests.pod import pod
from internlm2_operator.plan.actions import CreatePod
from tests.unit.manifests.golden import assert_golden
from tests.unit.plan.world import job

HOST = CreatePod(stage=0, attempt=1, slot=0, replacement=0, size=2, node="n1")
SPARE = CreatePod(stage=1, attempt=12, slot=2, replacement=3, size=2, node="n4")
OWN = {
    "labels": {"team": "research"},
    "annotations": {"sidecar.istio.io/inject": "false"},
    "image": "registry.example/trainer:1",
    "imagePullPolicy": "Always",
    "imagePullSecrets": [{"name": "pull"}],
    "env": [
        {"name": "OMP_NUM_THREADS", "value": "4"},
        {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
    ],
    "nodeSelector": {"pool": "gpu"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
                    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]},
                ]
            }
        }
    },
    "priorityClassName": "high",
    "schedulerName": "volcano",
    "serviceAccountName": "trainer",
    "runtimeClassName": "nvidia",
    "securityContext": {"runAsUser": 2000, "supplementalGroups": [3000], "capabilities": {"add": ["IPC_LOCK"]}},
    "terminationGracePeriodSeconds": 300,
    "resources": {"requests": {"cpu": 8}, "limits": {"memory": "64Gi"}},
    "volumes": [{"name": "scratch", "emptyDir": {}}],
    "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}],
}


def spec(body: dict[str, Any]) -> dict[str, Any]:
    inner: dict[str, Any] = body["spec"]
    return inner


def test_slot_0_hosts_the_rendezvous() -> None:
    assert_golden("pod_slot_0", pod(job(), HOST))


def test_replacement_with_everything_the_template_can_say() -> None:
    assert_golden("pod_replacement_with_template", pod(job(template=OWN), SPARE))


def test_job_on_a_mounted_volume_needs_no_secret() -> None:
    body = pod(job(checkpoint={"url": "file:///checkpoints"}), HOST)
    assert not [v for v in spec(body)["containers"][0]["env"] if v["name"].startswith("AWS_")]


def test_slot_0_is_the_host_and_slots_beyond_the_size_are_spares() -> None:
    members = [dataclasses.replace(HOST, slot=slot, size=2) for slot in range(3)]
    commands = [spec(pod(job(), member))["containers"][0]["command"] for member in members]
    assert [[f for f in ("--is-host", "--spare") if f in c] for c in commands] == [["--is-host"], [], ["--spare"]]


def test_pin_narrows_every_alternative_that_the_user_requires() -> None:
    affinity = spec(pod(job(template=OWN), SPARE))["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert [t["matchFields"][0]["values"] for t in terms] == [["n4"], ["n4"]]
