"""What the API server refuses in `template`: each row says which part, and the words a user reads."""

from typing import Final

import pytest
from kubernetes import client

from internlm2_spec import contract
from tests.api.jobs import job
from tests.api.refusal import Row, refusal

pytestmark = pytest.mark.api

DATA: Final = {"name": "data", "emptyDir": {}}


def mount(path: str, **more: str) -> dict[str, str]:
    """A mount of the volume DATA."""
    return {"name": "data", "mountPath": path} | more


REFUSED: Final[dict[str, Row]] = {
    "the GPU among the limits": (
        {"template": {"resources": {"limits": {"nvidia.com/gpu": 8}}}},
        ("template.resources.limits", "nvidia.com/gpu", "set nodes.gpusPerNode"),
    ),
    "a variable with two values": (
        {"template": {"env": [{"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
        ("template.env[0]", "A has both value and valueFrom", "set one"),
    ),
    "a variable from nowhere": (
        {"template": {"env": [{"name": "A", "valueFrom": {}}]}},
        ("template.env[0].valueFrom", "no source", "set exactly one"),
    ),
    "a variable from two places": (
        {
            "template": {
                "env": [
                    {
                        "name": "A",
                        "valueFrom": {
                            "secretKeyRef": {"name": "s", "key": "k"},
                            "fieldRef": {"fieldPath": "status.hostIP"},
                        },
                    }
                ]
            }
        },
        (
            "template.env[0].valueFrom",
            "several sources",
            "set exactly one of secretKeyRef, configMapKeyRef and fieldRef",
        ),
    ),
    "a field that no pod has": (
        {"template": {"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.image"}}}]}},
        ("template.env[0].valueFrom.fieldRef.fieldPath", '"spec.image"', "should match", "status"),
    ),
    "a label of the operator": (
        {"template": {"labels": {contract.LABEL_JOB: "other"}}},
        ("spec.template", "labels key training.internlm.io/job is reserved", "remove it"),
    ),
    "an annotation of the operator": (
        {"template": {"annotations": {"training.internlm.io/fault": "none"}}},
        ("spec.template", "annotations key training.internlm.io/fault is reserved", "remove it"),
    ),
    "a label of Kueue": (
        {"template": {"labels": {"kueue.x-k8s.io/queue-name": "gpus"}}},
        ("spec.template", "labels key kueue.x-k8s.io/queue-name", "a queue holds a job by suspend"),
    ),
    "another port for Prometheus": (
        {"template": {"annotations": {"prometheus.io/port": "1"}}},
        ("spec.template", "annotations key prometheus.io/port is reserved", "they are at port 9100"),
    ),
    "a label with a space": (
        {"template": {"labels": {"a b": "c"}}},
        ("spec.template", "labels key a b is no label", "write [DOMAIN/]NAME"),
    ),
    "a label with the value of none": (
        {"template": {"labels": {"team": "r&d"}}},
        ("spec.template", "labels team has the value r&d", "use letters, digits"),
    ),
    "a node selector that selects by no label": (
        {"template": {"nodeSelector": {"-pool": "gpu"}}},
        ("spec.template", "nodeSelector key -pool is no label", "write [DOMAIN/]NAME"),
    ),
    "a node selector with the value of no label": (
        {"template": {"nodeSelector": {"pool": "a b"}}},
        ("spec.template", "nodeSelector pool has the value a b", "use letters, digits"),
    ),
    "a toleration of nothing": (
        {"template": {"tolerations": [{"effect": "NoSchedule"}]}},
        ("template.tolerations[0]", "has no key and operator Equal", "use operator Exists"),
    ),
    "a toleration with a value that is not compared": (
        {"template": {"tolerations": [{"key": "gpu", "operator": "Exists", "value": "yes"}]}},
        ("template.tolerations[0].value", "value yes is not compared", "or use operator Equal"),
    ),
    "a time to tolerate what does not evict": (
        {"template": {"tolerations": [{"key": "gpu", "effect": "NoSchedule", "tolerationSeconds": 5}]}},
        ("template.tolerations[0].tolerationSeconds", "5", "NoSchedule", "use effect NoExecute"),
    ),
    "an amount that is none": (
        {"template": {"resources": {"limits": {"memory": "lots"}}}},
        ("template.resources", "limits memory lots is no quantity", "64Gi"),
    ),
    "a request above its limit": (
        {"template": {"resources": {"limits": {"memory": "1G"}, "requests": {"memory": "1Gi"}}}},
        ("template.resources.requests", "memory 1Gi is above its limit 1G", "lower the request or raise the limit"),
    ),
    "the GPU among the requests": (
        {"template": {"resources": {"requests": {"nvidia.com/gpu": 8}}}},
        ("template.resources.requests", "nvidia.com/gpu", "set nodes.gpusPerNode"),
    ),
    "root": (
        {"template": {"securityContext": {"runAsUser": 0}}},
        ("template.securityContext.runAsUser", "0", "greater than or equal to 1"),
    ),
    "a capability that is a way to be root": (
        {"template": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}},
        ("template.securityContext.capabilities.add", "SYS_ADMIN", "remove it (IPC_LOCK and NET_BIND_SERVICE may"),
    ),
    "a volume of the operator": (
        {"template": {"volumes": [{"name": "shm", "emptyDir": {}}]}},
        ("template.volumes[0].name", "name shm is reserved", "config, tmp, shm", "use another name"),
    ),
    "a volume of nothing": (
        {"template": {"volumes": [{"name": "data"}]}},
        ("template.volumes[0]", "data has 0 of configMap", "set exactly one of them", "a persistentVolumeClaim"),
    ),
    "a volume of two kinds": (
        {"template": {"volumes": [DATA | {"secret": {"secretName": "s"}}]}},
        ("template.volumes[0]", "data has 2 of configMap", "set exactly one of them"),
    ),
    "a volume with a name of no host": (
        {"template": {"volumes": [{"name": "My Data", "emptyDir": {}}]}},
        ("template.volumes[0].name", '"My Data"', "should match"),
    ),
    "a mount of no volume": (
        {"template": {"volumeMounts": [{"name": "data", "mountPath": "/mnt"}]}},
        ("template.volumeMounts", "name data is no volume", "add the volume, or correct the name"),
    ),
    "two mounts at one path": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("/mnt"), mount("/mnt")]}},
        ("template.volumeMounts", "mountPath /mnt is there more than once", "its own path"),
    ),
    "a mount over the configuration": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("/etc/internlm2")]}},
        ("template.volumeMounts[0].mountPath", "/etc/internlm2 is reserved", "mount it elsewhere"),
    ),
    "a mount over shared memory": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("/dev/shm/")]}},
        ("template.volumeMounts[0].mountPath", "/dev/shm/ is reserved", "mount it elsewhere"),
    ),
    "a mount over everything": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("/")]}},
        ("template.volumeMounts[0].mountPath", "mountPath / is reserved", "mount it elsewhere"),
    ),
    "a mount at a relative path": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("data")]}},
        ("template.volumeMounts[0].mountPath", "data is no absolute path", "start with /"),
    ),
    "a mount from outside of its volume": (
        {"template": {"volumes": [DATA], "volumeMounts": [mount("/mnt", subPath="../other")]}},
        ("template.volumeMounts[0].subPath", "../other is no path inside the volume", "use a relative one"),
    ),
    "a service account with a space": (
        {"template": {"serviceAccountName": "my account"}},
        ("template.serviceAccountName", '"my account"', "should match"),
    ),
    "an image with a space": (
        {"template": {"image": "trainer: 1"}},
        ("template.image", '"trainer: 1"', "should match"),
    ),
    "a variable with a space": (
        {"template": {"env": [{"name": "A B", "value": "1"}]}},
        ("template.env[0].name", '"A B"', "should match"),
    ),
    "grace of a second": (
        {"template": {"terminationGracePeriodSeconds": 1}},
        ("terminationGracePeriodSeconds", "greater than or equal to 5"),
    ),
}
RESERVED: Final = (*contract.RESERVED_ENV_NAMES, *(f"{prefix}X" for prefix in contract.RESERVED_ENV_PREFIXES))


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, admin: client.ApiClient) -> None:
    """The message holds field, value and cure."""
    changes, expected = REFUSED[name]
    message = refusal(admin, job(changes))
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize("name", RESERVED)
def test_reserved_variable_is_refused(name: str, admin: client.ApiClient) -> None:
    message = refusal(admin, job({"template": {"env": [{"name": name, "value": "1"}]}}))
    assert f"template.env name {name} is reserved" in message
    assert "remove it" in message
