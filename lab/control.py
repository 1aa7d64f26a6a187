"""The servers around the nodes: control plane, DNS, S3 and Prometheus, all in the control-plane namespace."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from lab import process
from lab.settings import Names

# In the order of starting; the API server waits for etcd by itself, the rest wait for the API server.
FIRST = ("etcd", "kube-apiserver", "versitygw")
THEN = ("kube-controller-manager", "kube-scheduler", "coredns", "podsd", "prometheus")
# Debian builds Prometheus without Kubernetes discovery: podsd gives it the same labels over HTTP.
PODSD = "127.0.0.1:9101"
# Stands in the S3 server's place while a fault wants it; the server is behind it then.
S3_PROXY = "s3proxy"
S3_PORT, S3_PORT_BEHIND = 9000, 9001
SCRAPE_SECONDS = 2  # of Prometheus

COREFILE = """. {{
    bind {router}
    errors
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} lab
        pods insecure
        ttl 5
    }}
}}
"""


@dataclass(frozen=True, slots=True)
class Control:
    """The servers of one lab."""

    names: Names
    binaries: dict[str, Path]
    gpu_nodes: tuple[str, ...]

    def start(self, server: str, *arguments: str) -> None:
        """Start a server unless it runs; the S3 server goes behind the proxy where that runs."""
        if process.pid_of(server, self.names.state) is None:
            argv, env = self._command(server)
            inside = process.nsenter(self.names.control_netns, *argv, *arguments)
            process.start(server, inside, state=self.names.state, env=env)

    def kill(self, server: str) -> int | None:
        """SIGKILL a server and see it gone; return its pid, None when it did not run."""
        pid = process.pid_of(server, self.names.state)
        if pid is not None:
            process.kill_until_gone(lambda: {pid}, what=server)
        return pid

    def write_files(self) -> None:
        """Write the servers' configuration."""
        names = self.names
        (names.state / "s3").mkdir(exist_ok=True)
        (names.state / "Corefile").write_text(COREFILE.format(router=names.ROUTER, kubeconfig=names.kubeconfig))
        (names.state / "prometheus.json").write_text(json.dumps(prometheus(names, self.gpu_nodes), indent=1))

    def _command(self, server: str) -> tuple[list[str], dict[str, str]]:
        names, state = self.names, self.names.state
        binary = sys.executable if server == S3_PROXY else str(self.binaries.get(server, server))
        kubeconfig = [f"--{kind}={names.kubeconfig}" for kind in KUBECONFIGS] + ["--leader-elect=false"]
        loopback = "--bind-address=127.0.0.1"
        arguments = {
            "etcd": [*ETCD, "--data-dir", f"{state}/etcd"],
            "kube-apiserver": self._apiserver(),
            "kube-controller-manager": [
                *kubeconfig,
                loopback,
                f"--service-account-private-key-file={state}/sa.key",
                f"--root-ca-file={state}/ca.crt",
                "--node-monitor-grace-period=8s",
                "--node-monitor-period=2s",
                "--kube-api-qps=100",
                "--kube-api-burst=200",
            ],
            "kube-scheduler": [*kubeconfig, loopback],
            "coredns": ["-conf", f"{state}/Corefile"],
            "podsd": [
                f"--server={names.apiserver_url}",
                f"--ca={state}/ca.crt",
                f"--token={state}/token",
                f"--listen={PODSD}",
            ],
            "versitygw": ["--port", self._s3(behind=self._proxied()), "posix", f"{state}/s3"],
            S3_PROXY: [str(PROXY), "--listen", self._s3(behind=False), "--to", self._s3(behind=True)],
            "prometheus": [
                f"--config.file={state}/prometheus.json",
                f"--storage.tsdb.path={state}/prometheus",
                f"--web.listen-address={names.ROUTER}:9090",
                "--storage.tsdb.retention.time=1d",
            ],
        }[server]
        secret = {"ROOT_ACCESS_KEY": names.S3_ACCESS_KEY, "ROOT_SECRET_KEY": names.S3_SECRET_KEY}
        return [binary, *arguments], secret if server == "versitygw" else {}

    def _proxied(self) -> bool:
        return process.pid_of(S3_PROXY, self.names.state) is not None

    def _s3(self, *, behind: bool) -> str:
        return f"{self.names.ROUTER}:{S3_PORT_BEHIND if behind else S3_PORT}"

    def _apiserver(self) -> list[str]:
        names, state = self.names, self.names.state
        return [
            "--etcd-servers=http://127.0.0.1:2379",
            f"--bind-address={names.ROUTER}",
            f"--advertise-address={names.ROUTER}",
            "--secure-port=6443",
            f"--tls-cert-file={state}/apiserver.crt",
            f"--tls-private-key-file={state}/apiserver.key",
            f"--service-cluster-ip-range={names.SERVICE_CIDR}",
            f"--token-auth-file={state}/tokens.csv",
            "--authorization-mode=RBAC",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={state}/sa.key",
            f"--service-account-key-file={state}/sa.key",
            "--kubelet-preferred-address-types=InternalIP",
        ]


PROXY = Path(__file__).with_name("s3proxy.py")
KUBECONFIGS = ("kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig")
ETCD = (
    "--listen-client-urls",
    "http://127.0.0.1:2379",
    "--advertise-client-urls",
    "http://127.0.0.1:2379",
    "--listen-peer-urls",
    "http://127.0.0.1:2380",
    "--initial-advertise-peer-urls",
    "http://127.0.0.1:2380",
    "--initial-cluster",
    "default=http://127.0.0.1:2380",
    "--unsafe-no-fsync",
)


def prometheus(names: Names, gpu_nodes: tuple[str, ...]) -> dict[str, object]:
    """Return Prometheus' configuration: the GPU exporters, and every running pod that asks to be scraped."""
    exporters = [{"targets": [f"{names.node_address(node)}:9400"], "labels": {"node": node}} for node in gpu_nodes]
    every = f"{SCRAPE_SECONDS}s"
    discovery = {"url": f"http://{PODSD}/", "refresh_interval": "2s"}
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "scrape_configs": [
            {"job_name": "dcgm-exporter", "static_configs": exporters},
            {"job_name": "pods", "http_sd_configs": [discovery], "relabel_configs": RELABEL},
        ],
    }


_POD = "__meta_kubernetes_pod"
_OURS = f"{_POD}_label_training_internlm_io"
RELABEL = [
    {"source_labels": [f"{_POD}_annotation_prometheus_io_scrape"], "regex": "true", "action": "keep"},
    {"source_labels": [f"{_POD}_phase"], "regex": "Succeeded|Failed|Pending", "action": "drop"},
    # One target per pod: the annotated port on the pod's address, whatever ports its containers declare.
    {
        "source_labels": [f"{_POD}_ip", f"{_POD}_annotation_prometheus_io_port"],
        "separator": ":",
        "target_label": "__address__",
    },
    {"source_labels": [f"{_POD}_annotation_prometheus_io_path"], "regex": "(.+)", "target_label": "__metrics_path__"},
    {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
    {"source_labels": [f"{_POD}_name"], "target_label": "pod"},
    {"source_labels": [f"{_POD}_node_name"], "target_label": "node"},
    {"source_labels": [f"{_OURS}_job"], "regex": "(.+)", "target_label": "training_job"},
    {"source_labels": [f"{_OURS}_slot"], "regex": "(.+)", "target_label": "slot"},
]


def dns_objects(names: Names) -> list[dict[str, object]]:
    """Return the Service that pods ask for names, and where it leads: the DNS server outside the nodes."""
    meta = {"name": "kube-dns", "namespace": "kube-system", "labels": {"kubernetes.io/service-name": "kube-dns"}}
    ports = [("dns", "UDP"), ("dns-tcp", "TCP")]
    service = {"clusterIP": names.DNS, "ports": [{"name": n, "protocol": p, "port": 53} for n, p in ports]}
    return [
        {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": service},
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta,
            "addressType": "IPv4",
            "endpoints": [{"addresses": [names.ROUTER]}],
            "ports": [{"name": n, "protocol": p, "port": 53} for n, p in ports],
        },
    ]
