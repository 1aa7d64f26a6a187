"""What the API server accepts, odd but valid, and what it fills in."""

from pathlib import Path
from typing import Any, Final, get_args

import pytest
import yaml
from kubernetes import client

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.api.spec import MANAGER
from internlm2_operator.api.status import Fault, FaultTimes, JobStatus, Phase, set_condition
from internlm2_spec import config, contract, layout
from lab import install_manifest
from lab.settings import CHECKOUT
from tests.api.apiserver import ApiServer
from tests.api.jobs import GONE, job, stage

pytestmark = pytest.mark.api

SIZES: Final = {"layers": 1, "hidden": 2, "heads": 1, "kvHeads": 1, "ffn": 1, "vocab": 8}
ONE_RANK: Final = {"nodes": {"min": 1, "max": 1, "gpusPerNode": 1}, "stages.0.parallel": GONE}
ACCEPTED: Final[dict[str, dict[str, Any]]] = {
    "the valid job": {},
    "one rank": ONE_RANK,
    "the smallest model": {**ONE_RANK, "model": {"config": SIZES}},
    "files instead of S3, no Secret": {
        "checkpoint": {"url": "file:///mnt/run"},
        "stages.0.data.url": "file:///mnt/corpus",
        "template": {
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
            "volumeMounts": [{"name": "data", "mountPath": "/mnt"}],
        },
    },
    "a bucket without a path": {"checkpoint.url": "s3://bucket"},
    "a size between min and max that does not divide": {"nodes.min": 2, "nodes.max": 4},
    "sixteen stages": {"stages": [stage(name=f"s{i}") for i in range(16)]},
    "stages of different layouts": {
        "stages": [stage(), stage(name="long", sequenceLength=32768, parallel={"tensor": 8, "zero": {"stage": 3}})],
    },
    "a long sequence over rings of exchanges": {
        "stages": [stage(sequenceLength=32768, parallel={"tensor": 2, "context": 4, "ulysses": 2})],
    },
    "ranks that share KV heads": {"stages": [stage(parallel={"tensor": 16})]},
    "a pipeline of each schedule": {
        "stages": [
            stage(name=name.lower(), parallel={"pipeline": 2, "schedule": name, "recompute": "Selective"})
            for name in get_args(config.Schedule)
        ],
    },
    "a compiled pipeline under ZeRO 3": {
        "stages.0.parallel": {"pipeline": 4, "zero": {"stage": 3, "shard": 4}, "compile": True, "recompute": "Full"},
    },
    "half the layers": {"stages.0.parallel.recomputeFraction": 0.5},
    "a mixture of as many sources as there may be": {
        "stages.0.data": {
            "sources": [
                {"url": f"s3://bucket/{i}", "weight": 10000, "minDocumentTokens": 5, "maxDocumentTokens": 5}
                for i in range(32)
            ]
        },
    },
    "WSD to the last step": {
        "stages.0.optimizer": {"schedule": "WSD", "warmupSteps": 40, "decaySteps": 60, "decay": "Linear"},
    },
    "a constant rate below the default of minLr": {"stages.0.optimizer": {"schedule": "Constant", "lr": 1.0e-6}},
    "no guard at all": {"stages.0.guard": {"nonFinite": "Stop", "spike": "Off", "maxRollbacks": 0}},
    "the longest name": {"metadata.name": "n" * 63},
    "a variable that only looks reserved": {"template": {"env": [{"name": "MY_RANK", "value": "1"}]}},
    "a variable without a value": {"template": {"env": [{"name": "EMPTY"}]}},
    "a variable from a Secret": {
        "template": {"env": [{"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}
    },
    "limits beside the GPU": {"template": {"resources": {"limits": {"rdma/hca": 8, "memory": "1Ti"}}}},
    "an affinity of any shape": {"template": {"affinity": {"podAntiAffinity": {}}}},
    "everything that a template can say": {
        "template": {
            "labels": {"team": "research", "app.kubernetes.io/part-of": "llm", "empty": ""},
            "annotations": {"sidecar.istio.io/inject": "false", "prometheus.io/path": "/metrics"},
            "image": "registry.example:5000/trainer@sha256:" + "0" * 64,
            "env": [{"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['team']"}}}],
            "runtimeClassName": "nvidia",
            "schedulerName": "my.scheduler",
            "securityContext": {"runAsUser": 65534, "runAsGroup": 0, "capabilities": {"add": ["IPC_LOCK"]}},
            "resources": {"requests": {"cpu": "500m", "memory": "1e9"}, "limits": {"cpu": 1, "memory": "1Gi"}},
        }
    },
    "every taint tolerated": {"template": {"tolerations": [{"operator": "Exists"}]}},
    "a taint tolerated for a while": {
        "template": {"tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 0}]}
    },
    "mounts beside the reserved paths": {
        "template": {
            "volumes": [{"name": "data", "emptyDir": {}}],
            "volumeMounts": [
                {"name": "data", "mountPath": path, "subPath": "a/b.c"}
                for path in ("/tmpfs", "/tmp/cache", "/etc/internlm3", "/dev/infiniband", "/mnt/shm")
            ],
        }
    },
    "every kind of volume that a namespace gives": {
        "template": {
            "volumes": [
                {"name": "a", "configMap": {"name": "c", "optional": True}},
                {"name": "b", "downwardAPI": {"items": [{"path": "l", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"name": "c", "emptyDir": {"medium": "Memory"}},
                {"name": "d", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}},
                {"name": "e", "persistentVolumeClaim": {"claimName": "p", "readOnly": True}},
                {"name": "f", "secret": {"secretName": "s", "items": [{"key": "k", "path": "p"}]}},
                {"name": "g", "projected": {"defaultMode": 256, "sources": [{"secret": {"name": "s"}}]}},
            ]
        }
    },
    "a request without a limit, and a limit without a request": {
        "template": {"resources": {"requests": {"cpu": 8}, "limits": {"memory": "64Gi", "rdma/hca_shared": 1}}}
    },
    "deleted as soon as it has ended": {"ttlSecondsAfterFinished": 0},
    "a job for another controller": {"managedBy": "kueue.x-k8s.io/multikueue"},
    "the manager by its name": {"managedBy": MANAGER},
    "a name of one letter": {"metadata.name": "a"},
    "a name that ends in digits and looks like a pod": {"metadata.name": "job-0-001-0000"},
    "no restarts at all": {"failurePolicy": {"maxRestarts": 0}},
    "other GPUs": {"nodes.resourceName": "amd.com/gpu"},
    "a size that changes at once, both ways": {"nodes.shrinkAfterSeconds": 0, "nodes.growAfterSeconds": 0},
    "suspended from the start": {"suspend": True},
}
PLACE: Final = (contract.API_GROUP, contract.API_VERSION, "default", contract.PLURAL)
MANIFESTS: Final = sorted(set((CHECKOUT / "manifests").glob("*.yaml")) - {install_manifest.PATH})


def created(admin: client.ApiClient, body: dict[str, Any], *, dry: bool = True) -> dict[str, Any]:
    """Return the object as the API server completes it."""
    custom = client.CustomObjectsApi(admin)
    made: Any = custom.create_namespaced_custom_object(
        *PLACE, body, dry_run="All" if dry else None, field_validation="Strict"
    )
    return dict(made)


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name: str, admin: client.ApiClient) -> None:
    """The API server takes it, the models read it, and the trainer's own rules agree on every stage."""
    read = InternLM2Job.from_object(created(admin, job(ACCEPTED[name])))
    for index in range(len(read.spec.stages)):
        for nodes in (read.spec.nodes.min, read.spec.nodes.max):
            layout.check(read.stage_config(index), nodes * read.spec.nodes.gpus_per_node)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_example_manifest_is_accepted(path: Path, admin: client.ApiClient) -> None:
    body = yaml.safe_load(path.read_text())
    body["metadata"]["namespace"] = "default"
    assert created(admin, body)["spec"]["suspend"] is False


@pytest.mark.parametrize("name", ["demo", "quickstart"])
def test_a_first_job_fits_on_a_screen(name: str) -> None:
    assert len((CHECKOUT / f"manifests/{name}.yaml").read_text().splitlines()) <= 30


def test_defaults_are_in_the_schema(admin: client.ApiClient) -> None:
    """What the API server fills in is what the models fill in."""
    body = job(ONE_RANK)
    spec = created(admin, body)["spec"]
    assert spec["stages"][0]["parallel"] == {
        "tensor": 1,
        "pipeline": 1,
        "schedule": "1F1B",
        "context": 1,
        "ulysses": 1,
        "zero": {"stage": 1, "shard": 1},
        "microBatch": 1,
        "recompute": "None",
        "recomputeFraction": 1.0,
        "compile": False,
    }
    assert spec["template"]["terminationGracePeriodSeconds"] == 120
    meta = {"uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"}
    ours = InternLM2Job.from_object(body | {"metadata": body["metadata"] | meta})
    assert ours.spec.to_object() == spec


def test_a_full_status_is_kept_and_printed(api: ApiServer, admin: client.ApiClient) -> None:
    """Nothing of a status is pruned, and the columns show it."""
    body = created(admin, job({"metadata.name": "shown"}), dry=False)
    now = InternLM2Job.from_object(body).created
    status = JobStatus(
        phase=Phase.RUNNING,
        conditions=set_condition((), "Progressing", status="True", reason="Step", message="m", generation=1, now=now),
        stage="pretrain",
        step=120,
        loss=2.5,
        mfu=0.41,
        faults=(Fault(id="1", cause="Xid79"), Fault(id="2", cause="NodeNotReady", times=FaultTimes(signal=now))),
    )
    custom = client.CustomObjectsApi(admin)
    custom.patch_namespaced_custom_object_status(*PLACE, "shown", {"status": status.to_object()})
    kept: Any = custom.get_namespaced_custom_object(*PLACE, "shown")
    assert InternLM2Job.from_object(kept).status == status
    lines = api.kubectl("get", "ilj", "shown").stdout.splitlines()
    assert lines[0].split() == [
        "NAME",
        "PHASE",
        "STAGE",
        "NODES",
        "STEP",
        "LOSS",
        "MFU",
        "RESTARTS",
        "LAST-FAULT",
        "AGE",
    ]
    assert lines[1].split()[:-1] == ["shown", "Running", "pretrain", "0", "120", "2.5", "0.41", "0", "NodeNotReady"]
