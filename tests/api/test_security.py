"""What a ServiceAccount of one namespace tries in order to get out of it, and how each is refused.

docs/security.md lists the attempts by the names of the rows. The server has the chart's defaults.
"""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from internlm2_spec import contract
from tests.api.apiserver import ApiServer
from tests.api.jobs import job
from tests.api.rest import JOBS, MERGE, Object, Rest
from tests.api.stage import ACCOUNT, SYSTEM
from tests.api.tenant import install_chart, make_tenant, refused

pytestmark = pytest.mark.api

HOME: Final = "team-a"
OTHER: Final = "team-b"
EDIT_JOBS: Final = f"{SYSTEM}-internlm2-operator-user-edit"
# What the role `edit` is made of; no controller puts it together here.
EDIT: Final = ("system:aggregate-to-edit", "system:aggregate-to-view")
STRICT: Final = "fieldManager=test&fieldValidation=Strict"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A server of its own: its policies would bind the jobs of other tests."""
    server = ApiServer(tmp_path_factory.mktemp("apiserver"))
    try:
        server.start()
        install_chart(server, tmp_path_factory.mktemp("helm"))
        server.install_crd()
        for namespace in (HOME, OTHER):
            server.kubectl("create", "namespace", namespace)
        server.kubectl("create", "secret", "generic", "s3", "--namespace", OTHER, "--from-literal=key=value")
        Rest(server)("POST", "/api/v1/nodes", {"metadata": {"name": "node"}})
        Rest(server)("POST", f"{JOBS}/namespaces/{OTHER}/internlm2jobs", theirs())
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def researcher(api: ApiServer) -> Rest:
    """Who may edit jobs in one namespace, and nothing else."""
    return make_tenant(api, HOME, account="researcher", roles=(EDIT_JOBS,))


@pytest.fixture(scope="module")
def editor(api: ApiServer) -> Rest:
    """Who may edit jobs and everything else that the role `edit` holds, pods and Secrets among it."""
    return make_tenant(api, HOME, account="editor", roles=(EDIT_JOBS, *EDIT))


def theirs() -> Object:
    """A job in the other namespace."""
    return job({"metadata.name": "theirs", "metadata.namespace": OTHER})


def mine(changes: dict[str, Any] | None = None, name: str = "job") -> Object:
    return job({"metadata.name": name, "metadata.namespace": HOME} | (changes or {}))


def volume(**source: Any) -> dict[str, Any]:
    return {"template": {"volumes": [{"name": "way-out", **source}]}}


# By what a job says. First what the schema of the job has a rule for.
RULES: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "a folder of the node": (volume(hostPath={"path": "/"}), "way-out has 0 of configMap"),
    "a file server of its choice": (volume(nfs={"server": "s", "path": "/"}), "way-out has 0 of configMap"),
    "a block device of its choice": (volume(iscsi={"targetPortal": "t", "iqn": "i", "lun": 0}), "way-out has 0 of"),
    "an inline volume of a CSI driver": (volume(csi={"driver": "nfs.csi.k8s.io"}), "way-out has 0 of configMap"),
    "a driver on the node": (volume(flexVolume={"driver": "d/d"}), "way-out has 0 of configMap"),
    "a token of a service account": (
        volume(projected={"sources": [{"serviceAccountToken": {"path": "token"}}]}),
        "no token of a service account",
    ),
    "a token beside a Secret": (
        volume(projected={"sources": [{"secret": {"name": "s"}}, {"serviceAccountToken": {"path": "token"}}]}),
        "no token of a service account",
    ),
    "root": ({"template": {"securityContext": {"runAsUser": 0}}}, "template.securityContext.runAsUser"),
    "the capability to administer": (
        {"template": {"securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}},
        "capabilities.add holds SYS_ADMIN",
    ),
    "the capability to load modules": (
        {"template": {"securityContext": {"capabilities": {"add": ["IPC_LOCK", "SYS_MODULE"]}}}},
        "capabilities.add holds SYS_MODULE",
    ),
    "all capabilities": (
        {"template": {"securityContext": {"capabilities": {"add": ["ALL"]}}}},
        "capabilities.add holds ALL",
    ),
    "the service account of the operator": (
        {"template": {"serviceAccountName": f"{SYSTEM}/{ACCOUNT}"}},
        "template.serviceAccountName",
    ),
    "the checkpoint Secret of another namespace": (
        {"checkpoint": {"url": "s3://b/r", "secretName": f"{OTHER}/s3"}},
        "checkpoint.secretName",
    ),
    "a variable from another namespace's Secret": (
        {"template": {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": f"{OTHER}/s3", "key": "key"}}}]}},
        "secretKeyRef.name",
    ),
    "an image with another namespace's registry Secret": (
        {"template": {"imagePullSecrets": [{"name": f"{OTHER}/registry"}]}},
        "imagePullSecrets[0].name",
    ),
    "the priority of the cluster's own parts": (
        {"template": {"priorityClassName": "system-node-critical"}},
        "priorityClassName system-node-critical is for the parts of the cluster itself",
    ),
    "no AppArmor profile": (
        {"template": {"annotations": {"container.apparmor.security.beta.kubernetes.io/trainer": "unconfined"}}},
        "changes what the container may do on its node",
    ),
    "devices by annotation": (
        {"template": {"annotations": {"cdi.k8s.io/gpus": "nvidia.com/gpu=all"}}},
        "changes what the container may do on its node",
    ),
    "a mirror of a static pod": (
        {"template": {"annotations": {"kubernetes.io/config.mirror": "x"}}},
        "changes what the container may do on its node",
    ),
    "all GPUs of the node": (
        {"template": {"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}},
        "NVIDIA_VISIBLE_DEVICES is reserved",
    ),
    "the name of another run for its ranks": (
        {"template": {"env": [{"name": "TORCHELASTIC_RUN_ID", "value": "theirs"}]}},
        "TORCHELASTIC_RUN_ID is reserved",
    ),
    "pods that look like another job's": (
        {"template": {"labels": {contract.LABEL_JOB: "theirs"}}},
        "labels key training.internlm.io/job is reserved",
    ),
    "pods that look like a node check's": (
        {"template": {"labels": {contract.LABEL_CHECK: "c", contract.LABEL_ROLE: "node-check"}}},
        "is reserved",
    ),
    "the members of a node check": (
        {"template": {"annotations": {contract.ANNOTATION_MEMBERS: "{}"}}},
        "annotations key training.internlm.io/members is reserved",
    ),
    "a resource that is none, for a second meaning of limits": (
        {"nodes.resourceName": "cpu"},
        "nodes.resourceName cpu is no extended resource",
    ),
    "a mount over the node's devices": (
        {
            "template": {
                "volumes": [{"name": "d", "emptyDir": {}}],
                "volumeMounts": [{"name": "d", "mountPath": "/dev"}],
            }
        },
        "mountPath /dev is reserved",
    ),
    "a mount out of its volume": (
        {
            "template": {
                "volumes": [{"name": "d", "emptyDir": {}}],
                "volumeMounts": [{"name": "d", "mountPath": "/d", "subPath": "../../etc"}],
            }
        },
        "is no path inside the volume",
    ),
    "a file of the operator as checkpoint": ({"checkpoint.url": "file://../etc/passwd"}, "checkpoint.url"),
    "a higher priority than its namespace has": (
        {"priority": 1},
        "spec.priority 1 is above 0, the highest of namespace",
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_a_job_cannot_have(name: str, researcher: Rest) -> None:
    """Refused also by clients that ask for no validation of fields."""
    changes, words = RULES[name]
    said = refused(researcher, "POST", f"{JOBS}/namespaces/{HOME}/internlm2jobs", mine(changes))
    assert said.startswith("422 ")
    assert words in said


def test_the_same_job_without_them_is_made(researcher: Rest) -> None:
    """The control."""
    made = researcher("POST", f"{JOBS}/namespaces/{HOME}/internlm2jobs?dryRun=All", mine())
    assert made["spec"]["nodes"]["max"] == 4


# What pods have and a template does not: kubectl refuses it, and a client that does not ask gets a job without it.
UNKNOWN: Final[dict[str, tuple[str, Any]]] = {
    "the network of the node": ("hostNetwork", True),
    "the processes of the node": ("hostPID", True),
    "the shared memory of the node": ("hostIPC", True),
    "the users of the node": ("hostUsers", True),
    "a port of the node": ("ports", [{"containerPort": 1, "hostPort": 1}]),
    "a node by name": ("nodeName", "node"),
    "a token of its service account": ("automountServiceAccountToken", True),
    "a container of its own": ("containers", [{"name": "c", "image": "i", "securityContext": {"privileged": True}}]),
    "a container before": ("initContainers", [{"name": "c", "image": "i"}]),
    "another command": ("command", ["sh", "-c", "id"]),
    "a hook": ("lifecycle", {"postStart": {"exec": {"command": ["id"]}}}),
    "names of its choice": ("hostAliases", [{"ip": "127.0.0.1", "hostnames": ["kubernetes"]}]),
    "variables from whole Secrets": ("envFrom", [{"secretRef": {"name": "s"}}]),
    "privileges": ("securityContext.privileged", True),
    "more privileges than its parent": ("securityContext.allowPrivilegeEscalation", True),
    "system calls without a filter": ("securityContext.seccompProfile", {"type": "Unconfined"}),
    "the whole of /proc": ("securityContext.procMount", "Unmasked"),
    "a user of SELinux": ("securityContext.seLinuxOptions", {"type": "spc_t"}),
    "parameters of the kernel": ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}]),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_template_has_no(name: str, researcher: Rest) -> None:
    field, value = UNKNOWN[name]
    path, body = f"{JOBS}/namespaces/{HOME}/internlm2jobs?dryRun=All", mine({f"template.{field}": value})
    assert f'unknown field "spec.template.{field}' in refused(researcher, "POST", f"{path}&{STRICT}", body)
    kept: Any = researcher("POST", path, body)["spec"]["template"]
    for part in field.split("."):
        kept = kept.get(part, {})
    assert kept == {}


FORGED_NOTE: Final = {"metadata": {"annotations": {contract.ANNOTATION_FAULT: "{}"}}, "spec": {"unschedulable": True}}
FORGED_CHECK: Final = {
    "metadata": {"name": "node-check-x-0000", "labels": {contract.LABEL_CHECK: "x", contract.LABEL_RANK: "0"}},
    "spec": {"containers": [{"name": "check", "image": "i"}]},
}
LEASE: Final = f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/internlm2-operator"
RULES_MAP: Final = f"/api/v1/namespaces/{SYSTEM}/configmaps/internlm2-operator-log-rules"
POLICY: Final = (
    "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/"
    f"{SYSTEM}-internlm2-operator-jobs"
)  # fmt: skip
CRDS: Final = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/internlm2jobs.training.internlm.io"
# By the API itself: method, path, body.
CALLS: Final[dict[str, tuple[str, str, Object | None]]] = {
    "the status of its own job": ("PATCH", f"{JOBS}/namespaces/{HOME}/internlm2jobs/job/status", {"status": {}}),
    "the end of its own pod": ("PATCH", f"/api/v1/namespaces/{HOME}/pods/p/status", {"status": {"phase": "Failed"}}),
    "a job of another namespace": ("GET", f"{JOBS}/namespaces/{OTHER}/internlm2jobs/theirs", None),
    "a job in another namespace": ("POST", f"{JOBS}/namespaces/{OTHER}/internlm2jobs", theirs()),
    "an end of another namespace's job": ("DELETE", f"{JOBS}/namespaces/{OTHER}/internlm2jobs/theirs", None),
    "all jobs of the cluster": ("GET", f"{JOBS}/internlm2jobs", None),
    "a Secret of another namespace": ("GET", f"/api/v1/namespaces/{OTHER}/secrets/s3", None),
    "a node's cordon": ("PATCH", "/api/v1/nodes/node", FORGED_NOTE),
    "a node's check": ("PATCH", "/api/v1/nodes/node", {"metadata": {"annotations": {contract.ANNOTATION_CHECK: "{}"}}}),
    "a node's condition": (
        "PATCH",
        "/api/v1/nodes/node/status",
        {"status": {"conditions": [{"type": "GPUHealthy", "status": "False"}]}},
    ),
    "a node check of its own": ("POST", f"/api/v1/namespaces/{SYSTEM}/pods", FORGED_CHECK),
    "the operator's pods": ("GET", f"/api/v1/namespaces/{SYSTEM}/pods", None),
    "the rules of rank logs": ("PATCH", RULES_MAP, {"data": {"rules.yaml": "rules: []"}}),
    "the operator's lease": ("PATCH", LEASE, {"spec": {"holderIdentity": "me"}}),
    "the operator's token": (
        "POST",
        f"/api/v1/namespaces/{SYSTEM}/serviceaccounts/{ACCOUNT}/token",
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}},
    ),
    "a higher priority for its namespace": (
        "PATCH",
        f"/api/v1/namespaces/{HOME}",
        {"metadata": {"annotations": {"training.internlm.io/max-priority": "1000"}}},
    ),
    "a namespace without Pod Security": (
        "PATCH",
        f"/api/v1/namespaces/{HOME}",
        {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}},
    ),
    "an end of the policy for jobs": ("DELETE", POLICY, None),
    "another definition of jobs": ("PATCH", CRDS, {"spec": {"scope": "Cluster"}}),
}


@pytest.mark.parametrize("name", CALLS)
def test_an_editor_of_one_namespace_cannot_write_or_read(name: str, editor: Rest) -> None:
    method, path, body = CALLS[name]
    kind = MERGE if method == "PATCH" else "application/json"
    assert refused(editor, method, path, body, kind=kind).startswith("403 ")


def test_an_editor_can_write_in_its_own_namespace(editor: Rest) -> None:
    """The control."""
    assert editor("POST", f"/api/v1/namespaces/{HOME}/pods?dryRun=All", FORGED_CHECK)["kind"] == "Pod"
    assert editor("POST", f"{JOBS}/namespaces/{HOME}/internlm2jobs?dryRun=All", mine())["kind"] == contract.KIND


def test_nobody_makes_a_job_in_the_operators_own_namespace(api: ApiServer) -> None:
    """Not even who may: its pods could use the operator's account."""
    body = job({"metadata.namespace": SYSTEM})
    said = refused(Rest(api), "POST", f"{JOBS}/namespaces/{SYSTEM}/internlm2jobs", body)
    assert f"namespace {SYSTEM} is the operator's own; make the job in another one" in said


def test_an_administrator_raises_the_priority_of_a_namespace(api: ApiServer, researcher: Rest) -> None:
    """A job keeps a priority that it has, and may lower it, when the bound falls below."""
    rest, path = Rest(api), f"{JOBS}/namespaces/{HOME}/internlm2jobs"
    allow = {"metadata": {"annotations": {"training.internlm.io/max-priority": "10"}}}
    rest.merge(f"/api/v1/namespaces/{HOME}", allow)
    researcher("POST", path, mine({"priority": 10}, name="urgent"))
    assert "above 10, the highest" in refused(researcher, "POST", path, mine({"priority": 11}, name="more"))
    allow["metadata"]["annotations"]["training.internlm.io/max-priority"] = "none"
    rest.merge(f"/api/v1/namespaces/{HOME}", allow)
    urgent = f"{path}/urgent"
    assert researcher.merge(urgent, {"spec": {"suspend": True}})["spec"]["priority"] == 10
    assert researcher.merge(urgent, {"spec": {"priority": 9}})["spec"]["priority"] == 9
    assert "above 0" in refused(researcher, "PATCH", urgent, {"spec": {"priority": 10}}, kind=MERGE)
