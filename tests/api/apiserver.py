"""A real etcd and a real kube-apiserver on 127.0.0.1, for tests; no kubelet, no controllers."""

import dataclasses
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from ssl import SSLContext, create_default_context
from typing import Any, Final

import yaml

from lab import build
from lab.settings import CHECKOUT, versions

TOKEN: Final = "admin-of-the-test"
CRD: Final = CHECKOUT / "charts/internlm2-operator/files/internlm2jobs.yaml"
DEADLINE_SECONDS: Final = 120.0


def tools(*wanted: str) -> dict[str, Path]:
    """Return the binaries of these lab tools by name, building what is missing."""
    all_versions = versions()
    chosen = tuple(tool for tool in all_versions.tools if tool.name in wanted)
    build.build(dataclasses.replace(all_versions, tools=chosen))
    return {path.name: path for tool in chosen for path in build.folder(tool).iterdir()}


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(ready: Callable[[], Any], *, what: str, seconds: float = DEADLINE_SECONDS) -> Any:
    """Return the first true value of `ready`, asked again and again until the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.05)
    return value


class ApiServer:
    """One API server and its etcd; both can be killed and started again with their data and ports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binaries = tools("etcd", "kubernetes")
        self.kubectl_path = self.binaries["kubectl"]
        self.kubeconfig = folder / "kubeconfig"
        self._ports = dict(zip(("etcd", "peer", "api"), free_ports(3), strict=True))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._ports['api']}"

    def start(self) -> None:
        """Start both, and return once the API server says that it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._spawn("etcd", self._etcd_flags())
        self.start_apiserver()
        self._write_kubeconfig()

    def start_apiserver(self) -> None:
        """Start the API server, again after `kill_apiserver`, and wait until it is ready."""
        key = self.folder / "sa.key"
        if not key.exists():
            subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
            (self.folder / "tokens.csv").write_text(f"{TOKEN},admin,admin,system:masters\n")
        self._spawn("kube-apiserver", self._apiserver_flags())
        wait_for(self._ready, what="kube-apiserver")

    def kill_apiserver(self) -> None:
        """SIGKILL the API server; etcd and its data stay."""
        self._end("kube-apiserver")

    def stop(self) -> None:
        """End both."""
        for name in list(self._processes):
            self._end(name)

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as admin; with `check` a failure is an assertion with kubectl's own words."""
        done = subprocess.run(
            [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", *args],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def bearing(self, token: str, path: Path) -> Path:
        """Write a kubeconfig that has this token and nothing else of the admin's; returns its path."""
        config = yaml.safe_load(self.kubeconfig.read_text())
        config["users"][0]["user"] = {"token": token}
        path.write_text(yaml.safe_dump(config))
        return path

    def install_crd(self) -> None:
        """Install the committed CRD and wait until its objects can be made."""
        self.kubectl("apply", "--server-side", "-f", str(CRD))
        # kubectl fails at once while the conditions are still null.
        wait = ("wait", "--for=condition=Established", "--timeout=60s", "-f", str(CRD))
        wait_for(lambda: self.kubectl(*wait, check=False).returncode == 0, what="the CRD")

    def _etcd_flags(self) -> Mapping[str, str]:
        client, peer = (f"http://127.0.0.1:{self._ports[name]}" for name in ("etcd", "peer"))
        return {
            "data-dir": str(self.folder / "etcd"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",
        }

    def _apiserver_flags(self) -> Mapping[str, str]:
        return {
            "etcd-servers": f"http://127.0.0.1:{self._ports['etcd']}",
            "bind-address": "127.0.0.1",
            "advertise-address": "127.0.0.1",
            "secure-port": str(self._ports["api"]),
            "cert-dir": str(self.folder / "certs"),
            "service-cluster-ip-range": "10.96.0.0/16",
            "token-auth-file": str(self.folder / "tokens.csv"),
            "authorization-mode": "RBAC",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-signing-key-file": str(self.folder / "sa.key"),
            "service-account-key-file": str(self.folder / "sa.key"),
            # No controller makes the default service account here, and pods would be refused without it.
            "disable-admission-plugins": "ServiceAccount",
            # As every distribution has it: the node agent's pods are privileged.
            "allow-privileged": "true",
            # Loopback is refused as an endpoint of the `kubernetes` Service; nothing here needs that Service.
            "endpoint-reconciler-type": "none",
        }

    def _spawn(self, name: str, flags: Mapping[str, str]) -> None:
        argv = [str(self.binaries[name]), *(f"--{flag}={value}" for flag, value in flags.items())]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder)

    def _end(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def _trust(self) -> SSLContext:
        return create_default_context(cafile=str(self.folder / "certs" / "apiserver.crt"))

    def _ready(self) -> bool:
        log = self.folder / "kube-apiserver.log"
        assert self._processes["kube-apiserver"].poll() is None, log.read_text()[-2000:]
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
        try:
            with urllib.request.urlopen(request, context=self._trust(), timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _write_kubeconfig(self) -> None:
        cluster = {"server": self.url, "certificate-authority": str(self.folder / "certs" / "apiserver.crt")}
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin", "namespace": "default"}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(body))
