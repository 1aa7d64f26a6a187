"""The chart: what helm renders, a real API server takes, and the operator's rights are what its calls need."""

import csv
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from internlm2_operator.agent import options
from internlm2_operator.cli import arguments
from internlm2_operator.cluster import viewers
from internlm2_operator.health import rulebook
from internlm2_operator.health.edges import COUNTERS, HEALTH
from internlm2_operator.health.series import XID, XID_COUNT
from internlm2_operator.manifests.check_pod import check_pod
from internlm2_operator.manifests.pod import pod
from internlm2_operator.plan.actions import CreatePod
from internlm2_operator.plan.check import Check, Depth, MakePod
from internlm2_operator.runtime import options as operator_options
from lab import install_manifest
from tests.api.apiserver import ApiServer, tools
from tests.api.helm import CHART, NAMESPACE, Helm
from tests.api.stage import OperatorProcess
from tests.unit.plan.world import job

pytestmark = pytest.mark.api

MEMBER: Final = MakePod(
    Check(("n1", "n2"), Depth.QUICK, "nvidia.com/gpu", datetime(2026, 3, 1, tzinfo=UTC), "why"), 0, "n1", 8
)
SUBJECT: Final = f"system:serviceaccount:{NAMESPACE}:internlm2-operator"


@pytest.fixture(scope="module")
def helm(tmp_path_factory: pytest.TempPathFactory) -> Helm:
    """A helm that leaves nothing behind."""
    return Helm(tmp_path_factory.mktemp("helm"))


def one(bodies: list[dict[str, Any]], kind: str, end: str = "") -> dict[str, Any]:
    """Return the only object of a kind whose name ends so."""
    (body,) = [body for body in bodies if body["kind"] == kind and body["metadata"]["name"].endswith(end)]
    return body


@pytest.fixture(scope="module")
def installed(helm: Helm, api: ApiServer) -> list[dict[str, Any]]:
    """The objects of the chart, applied strictly into a namespace that enforces the restricted pod standard."""
    space = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    }
    # The server is that of other tests too, whose jobs have priorities.
    bodies = helm.template("--kube-version=1.35.0", "--set=jobs.maxPriority=1000000")
    for body in (space, *bodies):
        api.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    return bodies


def test_lint_has_nothing_to_say(helm: Helm) -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_operator_passes_the_restricted_pod_standard(api: ApiServer, installed: list[dict[str, Any]]) -> None:
    """Admission of the real API server judges the pod that the Deployment would make."""
    template = one(installed, "Deployment")["spec"]["template"]
    template["spec"].pop("serviceAccountName")
    pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "operator", "namespace": NAMESPACE}}
    api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    # The control: the same pod as root is refused, so the standard is really enforced.
    pod["spec"]["securityContext"]["runAsNonRoot"] = False
    done = api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
    assert "violates PodSecurity" in done.stderr


ALLOWED: Final = {
    "list internlm2jobs.training.internlm.io",
    "watch internlm2jobs.training.internlm.io",
    "delete internlm2jobs.training.internlm.io",
    "patch internlm2jobs.training.internlm.io --subresource=status",
    "create pods",
    "delete pods",
    "create services",
    "patch configmaps",
    "patch networkpolicies.networking.k8s.io",
    "get secrets",
    "list resourcequotas",
    "watch resourcequotas",
    "patch nodes",
    "create events",
    "patch events",
    f"update leases.coordination.k8s.io/internlm2-operator -n {NAMESPACE}",
    f"get configmaps/internlm2-operator-log-rules -n {NAMESPACE}",
    "get leases.coordination.k8s.io -n kube-node-lease",
}
FORBIDDEN: Final = {
    "patch internlm2jobs.training.internlm.io",
    "create internlm2jobs.training.internlm.io",
    "list secrets",
    "list configmaps",
    f"watch configmaps/internlm2-operator-log-rules -n {NAMESPACE}",
    "patch resourcequotas",
    "watch secrets",
    "delete nodes",
    "delete events",
    "update nodes",
    "create pods --subresource=exec",
    "delete services",
    "delete configmaps",
    "update leases.coordination.k8s.io -n default",
    "update leases.coordination.k8s.io -n kube-node-lease",
    "list leases.coordination.k8s.io -n kube-node-lease",
    "get leases.coordination.k8s.io -n default",
    f"update leases.coordination.k8s.io/another -n {NAMESPACE}",
    "delete networkpolicies.networking.k8s.io",
    "create clusterrolebindings.rbac.authorization.k8s.io",
    "list customresourcedefinitions.apiextensions.k8s.io",
}


@pytest.mark.parametrize(
    ("verb", "expected"), [*((v, "yes") for v in sorted(ALLOWED)), *((v, "no") for v in sorted(FORBIDDEN))]
)
def test_right(verb: str, expected: str, api: ApiServer, installed: list[dict[str, Any]]) -> None:
    """The API server answers for the service account of the chart."""
    assert installed
    done = api.kubectl("auth", "can-i", *verb.split(), f"--as={SUBJECT}", check=False)
    assert done.stdout.strip() == expected


def test_no_right_is_a_wildcard(installed: list[dict[str, Any]]) -> None:
    rules = [rule for body in installed if body["kind"] in ("Role", "ClusterRole") for rule in body["rules"]]
    assert [rule for rule in rules if "*" in json.dumps(rule)] == []


AGENT: Final = ("--set=agent.enabled=true", "--kube-version=1.30.0")


def test_the_agent_is_off_unless_asked_for(helm: Helm) -> None:
    assert [body for body in helm.template() if "agent" in body["metadata"]["name"]] == []
    kinds = sorted(body["kind"] for body in helm.template(*AGENT) if "agent" in body["metadata"]["name"])
    assert kinds == ["ClusterRole", "ClusterRoleBinding", "DaemonSet", "NetworkPolicy", "ServiceAccount",
                     "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"]  # fmt: skip


def test_the_agent_mounts_only_what_is_asked_for(helm: Helm) -> None:
    def volumes(*values: str) -> dict[str, str]:
        spec = one(helm.template(*AGENT, *values), "DaemonSet")["spec"]["template"]["spec"]
        mounts = {mount["name"]: mount.get("readOnly", False) for mount in spec["containers"][0]["volumeMounts"]}
        assert [name for name, read_only in mounts.items() if not read_only] == ["state"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        return {volume["hostPath"]["path"]: volume["name"] for volume in spec["volumes"]}

    assert set(volumes("--set=agent.disks=null")) == {"/dev/kmsg", "/var/lib/internlm2-agent"}
    assert {"/sys", "/data"} < set(volumes("--set=agent.links={eth0}", "--set=agent.disks={/data}"))


def test_a_file_may_stand_in_for_the_kernels_log(helm: Helm) -> None:
    def log(*values: str) -> dict[str, str]:
        volumes = one(helm.template(*AGENT, *values), "DaemonSet")["spec"]["template"]["spec"]["volumes"]
        return next(dict(volume["hostPath"]) for volume in volumes if volume["name"] == "kmsg")

    assert log() == {"path": "/dev/kmsg", "type": "CharDevice"}
    assert log("--set=agent.kernelLog=/run/lab/kmsg") == {"path": "/run/lab/kmsg", "type": "File"}


def test_the_agents_own_flags_take_what_the_chart_gives(helm: Helm) -> None:
    spec = one(helm.template(*AGENT, "--set=agent.links={eth0}"), "DaemonSet")["spec"]["template"]["spec"]
    found = options.parse(spec["containers"][0]["args"], {"NODE_NAME": "n1"})
    assert (found.links, found.disks, found.port) == (("eth0",), ("/var/lib/internlm2-agent",), 8081)


def test_the_agent_needs_tokens_that_name_their_node(helm: Helm) -> None:
    done = helm("template", "internlm2", str(CHART), "--kube-version", "1.29.0", "--set=agent.enabled=true")
    assert done.returncode != 0
    assert "agent.enabled: needs Kubernetes 1.30" in done.stderr


def test_values_reach_the_pod(helm: Helm) -> None:
    values = ("prometheus.url=http://p:9090", "namespaces={train,eval}", "image.tag=1.2.3", "verbose=true")
    body = one(helm.template(*(f"--set={value}" for value in values)), "Deployment")
    (container,) = body["spec"]["template"]["spec"]["containers"]
    env: Mapping[str, str] = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert (env["PROMETHEUS_URL"], env["WATCH_NAMESPACES"]) == ("http://p:9090", "eval,train")
    assert container["image"] == "internlm2-operator:1.2.3"
    assert container["args"][-1] == "--verbose"


def test_the_agent_has_the_operators_image_or_its_own(helm: Helm) -> None:
    def image(*values: str) -> str:
        bodies = helm.template("--kube-version=1.30.0", "--set=agent.enabled=true", "--set=image.tag=1.0.0", *values)
        (agent,) = [body for body in bodies if body["kind"] == "DaemonSet"]
        return str(agent["spec"]["template"]["spec"]["containers"][0]["image"])

    assert image() == "internlm2-operator:1.0.0"
    assert image("--set=agent.image.repository=r/agent") == "r/agent:0.1.0"
    assert image("--set=agent.image.repository=r/agent", "--set=agent.image.tag=2.0.0") == "r/agent:2.0.0"


def test_a_digest_wins_over_a_tag(helm: Helm) -> None:
    digest = f"sha256:{'0' * 64}"
    bodies = helm.template(f"--set=image.digest={digest}", "--set=image.tag=1.2.3")
    images = {c["image"] for b in bodies if b["kind"] in ("Deployment", "Pod")
              for c in b["spec"].get("template", b)["spec"]["containers"]}  # fmt: skip
    assert images == {f"internlm2-operator@{digest}"}


def test_the_operators_own_flags_and_its_rules_are_what_the_chart_gives(helm: Helm) -> None:
    row = {"name": "feeder-stopped", "pattern": r"feeder \w+ stopped", "blame": "unknown", "cause": "FeederStopped",
           "weight": "cause"}  # fmt: skip
    bodies = helm.template(
        f"--set-json=logRules={json.dumps([row])}", '--set-literal=prometheus.match=namespace="gpus"'
    )
    held = one(bodies, "ConfigMap")
    (rule,) = rulebook.parse(held["data"]["rules.yaml"], path="rules")
    assert (rule.name, rule.pattern) == (row["name"], row["pattern"])
    (container,) = one(bodies, "Deployment")["spec"]["template"]["spec"]["containers"]
    parsed = operator_options.parse(container["args"], {})
    assert (parsed.log_rules, parsed.prometheus_match) == (held["metadata"]["name"], 'namespace="gpus"')
    assert rulebook.parse(one(helm.template(), "ConfigMap")["data"]["rules.yaml"], path="rules") == ()


def test_checks_of_nodes_are_off_without_an_image(helm: Helm) -> None:
    """With one, nobody but the members of a check may speak to them."""
    bare = helm.template()
    assert "NODE_CHECK_IMAGE" not in json.dumps(bare)
    assert [body["metadata"]["name"] for body in bare if body["kind"] == "NetworkPolicy"] == ["internlm2-operator"]
    bodies = helm.template("--set=nodeCheck.image=trainer:1", "--set=nodeCheck.resource=x.com/gpu")
    (container,) = one(bodies, "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {entry["name"]: entry.get("value", "") for entry in container["env"]}
    assert (env["NODE_CHECK_IMAGE"], env["NODE_CHECK_RESOURCE"]) == ("trainer:1", "x.com/gpu")
    policy = one(bodies, "NetworkPolicy", "node-check")["spec"]
    labels = check_pod(MEMBER, namespace=NAMESPACE, image="i")["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["ingress"] == [{"from": [{"podSelector": policy["podSelector"]}]}]


def test_the_pods_of_checks_pass_the_restricted_pod_standard(api: ApiServer, installed: list[dict[str, Any]]) -> None:
    assert installed
    pod = check_pod(MEMBER, namespace=NAMESPACE, image="i")
    api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    pod["spec"]["containers"][0]["securityContext"]["capabilities"] = {}
    done = api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(pod), check=False)
    assert "violates PodSecurity" in done.stderr


def test_monitors_are_off_unless_asked_for(helm: Helm) -> None:
    def monitors(*values: str) -> list[str]:
        bodies = helm.template(*values, *AGENT)
        return sorted(f"{b['kind']} {b['metadata']['name']}" for b in bodies if b["kind"].endswith("Monitor"))

    agent, operator, trainers = (f"PodMonitor internlm2-operator{end}" for end in ("-agent", "", "-trainers"))
    assert monitors() == []
    assert monitors("--set=podMonitor.enabled=true") == [operator, agent, trainers]
    both = monitors("--set=podMonitor.enabled=true", "--set=serviceMonitor.enabled=true")
    assert both == [agent, trainers, "ServiceMonitor internlm2-operator"]


def test_monitors_choose_the_pods_and_ports_that_there_are(helm: Helm) -> None:
    bodies = helm.template("--set=podMonitor.enabled=true", "--set=namespaces={train}")
    trainers = one(bodies, "PodMonitor", "trainers")["spec"]
    made = pod(job(), CreatePod(stage=0, attempt=1, slot=0, replacement=0, size=1, node="n1"))
    assert trainers["selector"]["matchLabels"].items() <= made["metadata"]["labels"].items()
    ports = {port["name"] for port in made["spec"]["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in trainers["podMetricsEndpoints"]} <= ports
    assert trainers["namespaceSelector"] == {"matchNames": ["train"]}


def test_counters_hold_all_that_the_operator_asks_prometheus_for(helm: Helm) -> None:
    assert "dcgm" not in json.dumps([body["metadata"] for body in helm.template()])
    bodies = helm.template("--set=dcgmCounters.enabled=true", "--set=dcgmCounters.namespace=gpu-operator")
    held = one(bodies, "ConfigMap", "dcgm-counters")
    assert held["metadata"]["namespace"] == "gpu-operator"
    rows = [row for row in csv.reader(held["data"]["metrics"].splitlines()) if not row[0].startswith("#")]
    assert {len(row) for row in rows} == {3}
    assert {row[1].strip() for row in rows} == {"gauge", "counter"}
    assert {*COUNTERS, HEALTH, XID, XID_COUNT, "DCGM_FI_DEV_GPU_TEMP"} <= {row[0] for row in rows}
    assert held["data"]["metrics"] == held["data"]["dcgm-metrics.csv"]


def test_helm_test_asks_the_operator_itself(
    installed: list[dict[str, Any]], process: OperatorProcess, api: ApiServer
) -> None:
    """The pod passes the restricted standard; what it runs is run here against an operator, and against none."""
    body = one(installed, "Pod")
    api.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    assert body["spec"]["automountServiceAccountToken"] is False
    (container,) = body["spec"]["containers"]
    _, flag, script = container["command"]
    script = script.replace("DEADLINE_SECONDS = 60.0", "DEADLINE_SECONDS = 20.0")
    argv = [sys.executable, flag, script]
    said = subprocess.run([*argv, process.url], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "the operator is healthy and holds the lease\n"
    script = script.replace("20.0", "0.1")
    said = subprocess.run([*argv[:2], script, "http://127.0.0.1:1"], capture_output=True, text=True, check=False)
    assert (said.returncode, "see the log of its pod" in said.stderr) == (1, True)


def test_the_manifest_to_apply_is_what_the_chart_renders() -> None:
    """manifests/install.yaml is not stale; rendered by either helm it is the same."""
    text = install_manifest.PATH.read_text(encoding="utf-8")
    for binary in (tools("helm")["helm"], tools("helm3")["helm3"]):
        assert install_manifest.rendered(binary) == text


def test_who_reads_metrics_and_what_is_reached_is_bounded_by_rules(helm: Helm) -> None:
    def policy(*values: str) -> dict[str, Any]:
        return dict(one(helm.template(*values), "NetworkPolicy")["spec"])

    assert policy()["policyTypes"] == ["Ingress"]
    rule = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}
    closed = policy(f"--set-json=networkPolicy.egress=[{json.dumps(rule)}]")
    assert (closed["policyTypes"], closed["egress"]) == (["Ingress", "Egress"], [rule])
    scraper = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    (ingress,) = policy(f"--set-json=networkPolicy.scrapers=[{json.dumps(scraper)}]")["ingress"]
    assert (ingress["from"], "from" in policy()["ingress"][0]) == ([scraper], False)
    assert [b for b in helm.template("--set=networkPolicy.enabled=false") if b["kind"] == "NetworkPolicy"] == []


def test_notes_give_the_next_command(helm: Helm) -> None:
    done = helm("install", "internlm2", str(CHART), "--namespace", NAMESPACE, "--dry-run=client",
                "--set=namespaces={train}", "--set=crds.keep=false")  # fmt: skip
    assert done.returncode == 0, done.stderr
    notes = done.stdout[done.stdout.index("NOTES:") :]
    assert f"helm test internlm2 --namespace {NAMESPACE}" in notes
    assert "kubectl --namespace train apply -f manifests/quickstart.yaml" in notes
    assert "will delete all InternLM2Jobs" in notes
    assert "prometheus.match is empty" not in notes
    done = helm("install", "internlm2", str(CHART), "--dry-run=client", "--set=prometheus.url=http://p")
    assert "prometheus.match is empty: where Prometheus scrapes pods of users too" in done.stdout


UI: Final = "--set=ui.enabled=true"


def test_pages_are_off_unless_asked_for(helm: Helm) -> None:
    def kinds(*values: str) -> list[str]:
        return sorted(b["kind"] for b in helm.template(*values) if b["metadata"]["name"].endswith("-ui"))

    assert kinds() == []
    assert kinds(UI) == ["Deployment", "NetworkPolicy", "Service", "ServiceAccount"]
    assert kinds(UI, "--set=networkPolicy.enabled=false") == ["Deployment", "Service", "ServiceAccount"]


def test_the_pod_of_pages_has_no_right_and_no_token(helm: Helm) -> None:
    """The control: the same search finds the operator's own binding."""
    bodies = helm.template(UI)
    account = one(bodies, "ServiceAccount", "-ui")
    spec = one(bodies, "Deployment", "-ui")["spec"]["template"]["spec"]
    assert spec["serviceAccountName"] == account["metadata"]["name"] != "internlm2-operator"
    assert (spec["automountServiceAccountToken"], account["automountServiceAccountToken"]) == (False, False)
    subjects = {s["name"] for body in bodies for s in body.get("subjects", ())}
    assert (account["metadata"]["name"] in subjects, "internlm2-operator" in subjects) == (False, True)
    kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
    assert kinds == {"configMap", "emptyDir"}


@pytest.mark.parametrize("url", ["", "http://prometheus.monitoring:9090"])
def test_pages_ask_the_prometheus_that_the_operator_asks(url: str, helm: Helm) -> None:
    deployment = one(helm.template(UI, f"--set=prometheus.url={url}"), "Deployment", "-ui")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [each["value"] for each in container["env"] if each["name"] == "PROMETHEUS_URL"] == [url] * bool(url)


def test_nobody_reaches_the_pages_but_who_is_named(helm: Helm) -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}
    assert "ingress" not in one(helm.template(UI), "NetworkPolicy", "-ui")["spec"]
    bodies = helm.template(UI, f"--set-json=ui.from=[{json.dumps(peer)}]")
    (rule,) = one(bodies, "NetworkPolicy", "-ui")["spec"]["ingress"]
    assert rule == {"from": [peer], "ports": [{"port": "http", "protocol": "TCP"}]}
    labels = one(bodies, "Deployment", "-ui")["spec"]["template"]["metadata"]["labels"]
    assert one(bodies, "NetworkPolicy", "-ui")["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert one(bodies, "Service", "-ui")["spec"]["selector"].items() <= labels.items()


def test_the_pages_own_flags_and_files_are_what_the_chart_gives(helm: Helm) -> None:
    spec = one(helm.template(UI), "Deployment", "-ui")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    asked = arguments.parse(container["args"], "internlm2")
    assert (asked.verb, asked.shared, asked.port) == ("ui", True, container["ports"][0]["containerPort"])
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"{mounts['authority']}/ca.crt" == str(viewers.AUTHORITY)


def test_the_pages_pass_the_restricted_pod_standard(
    api: ApiServer, installed: list[dict[str, Any]], helm: Helm
) -> None:
    assert installed
    template = one(helm.template(UI), "Deployment", "-ui")["spec"]["template"]
    template["spec"].pop("serviceAccountName")
    body = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "ui", "namespace": NAMESPACE}}
    api.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(body))
    body["spec"]["securityContext"]["runAsNonRoot"] = False
    done = api.kubectl("apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body), check=False)
    assert "violates PodSecurity" in done.stderr


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ui.enable=true", "enable"),
        ("ui.from=ingress", "/ui/from"),
        ("prometheus.ulr=http://p", "ulr"),
        ("prometheus.url=p:9090", "/prometheus/url"),
        ("workers=0", "/workers"),
        ("topologyLabel=", "/topologyLabel"),
        ("logRules[0].name=x", "/logRules/0"),
        ("image.digest=sha256:1", "/image/digest"),
        ("replicas=2", "replicas"),
        ("namespaces={Train}", "/namespaces/0"),
        ("namespaces=train", "/namespaces"),
        ("crds.kep=true", "kep"),
        ("jobs.maxPriority=high", "/jobs/maxPriority"),
        ("networkPolicy.egress=all", "/networkPolicy/egress"),
        ("dcgmCounters.namespace=a/b", "/dcgmCounters/namespace"),
        ("serviceMonitor.interval=15", "/serviceMonitor/interval"),
        ("dashboards.enable=true", "enable"),
        ("dashboards.enabled=1", "/dashboards/enabled"),
        ("prometheusRule.runbooks=a b", "/prometheusRule/runbooks"),
        ("prometheusRule.label.a=b", "label"),
        ("nodeCheck.image=a b", "/nodeCheck/image"),
        ("nodeCheck.resource=gpu", "/nodeCheck/resource"),
        ("agent.disks={data}", "/agent/disks/0"),
        ("agent.kernelLog=kmsg", "/agent/kernelLog"),
        ("agent.links={a/b}", "/agent/links/0"),
        ("agent.writesPerSecond=0", "/agent/writesPerSecond"),
    ],
)
def test_a_wrong_value_is_refused_by_name(value: str, expected: str, helm: Helm) -> None:
    done = helm("template", "internlm2", str(CHART), f"--set={value}")
    assert done.returncode != 0
    assert expected in done.stderr


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    done = helm("template", "internlm2", str(CHART), "--kube-version", "1.28.0")
    assert done.returncode != 0
    assert ">=1.29" in done.stderr
