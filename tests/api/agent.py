"""The node agent as the chart installs it: its own process, account and token against a real API server.

A file stands for /dev/kmsg. There is no DaemonSet controller here, so whoever wants an agent makes its pod and asks for
its token, as a kubelet would.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Final

import yaml

from lab.settings import CHECKOUT
from tests.api.apiserver import ApiServer, free_ports, tools, wait_for
from tests.api.rest import Object, Rest

NAMESPACE: Final = "internlm2-agents"
ACCOUNT: Final = "internlm2-operator-agent"
GPU: Final = "nvidia.com/gpu"
LOST: Final = "NVRM: Xid (PCI:0000:3b:00): 79, pid=4242, name=python, GPU has fallen off the bus."


def install_agent(api: ApiServer, folder: Path) -> None:
    """Apply the account, role and policy of the chart."""
    chart = str(CHECKOUT / "charts/internlm2-operator")
    argv = [str(tools("helm")["helm"]), "template", "internlm2", chart, "--namespace", NAMESPACE]
    argv += ["--kube-version", "1.30.0", "--set", "agent.enabled=true"]
    env = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    done = subprocess.run(argv, capture_output=True, text=True, check=True, env=env, timeout=120)
    space: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    bodies = [space, *(b for b in yaml.safe_load_all(done.stdout) if b and "operator-agent" in b["metadata"]["name"])]
    assert [b["kind"] for b in bodies].count("ValidatingAdmissionPolicy") == 1
    for body in bodies:
        api.kubectl("apply", "--server-side", "--validate=strict", "-f", "-", stdin=json.dumps(body))


def make_node(rest: Rest, name: str, gpus: int = 8) -> None:
    """Make a ready node that offers its GPUs."""
    rest("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastHeartbeatTime": None}
    count = {GPU: str(gpus)}
    rest.merge(
        f"/api/v1/nodes/{name}/status",
        {"status": {"capacity": count, "allocatable": count, "conditions": [ready]}},
    )


def token_of(api: ApiServer, rest: Rest, node: str) -> str:
    """Return a token of the agent's account that is bound to a pod on `node`."""
    pod = f"agent-{node}"
    body: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod, "namespace": NAMESPACE}}
    body["spec"] = {
        "nodeName": node,
        "serviceAccountName": ACCOUNT,
        "containers": [{"name": "agent", "image": "agent"}],
    }
    rest("POST", f"/api/v1/namespaces/{NAMESPACE}/pods", body)
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}")
    return api.kubectl("create", "token", ACCOUNT, "-n", NAMESPACE, "--duration=2h", *bound).stdout.strip()


class AgentProcess:
    """`python -m internlm2_operator.agent` on one node, which can be killed and started again."""

    def __init__(self, api: ApiServer, rest: Rest, folder: Path, node: str, *flags: str) -> None:
        self.node = node
        self.kmsg = folder / "kmsg"
        self.kmsg.touch()
        self.boot = folder / "boot_id"
        self.boot.write_text("boot-1\n")
        self._folder = folder
        self._rest = rest
        self._flags = flags
        self._port = free_ports(1)[0]
        self._sequence = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.token = token_of(api, rest, node)
        self._kubeconfig = api.bearing(self.token, folder / "kubeconfig")

    def start(self) -> None:
        """Start it, and return once the condition is there."""
        argv = [sys.executable, "-m", "internlm2_operator.agent", f"--node={self.node}", f"--kmsg={self.kmsg}"]
        argv += [f"--boot-id={self.boot}", f"--state={self._folder / 'state' / 'state.json'}", f"--port={self._port}"]
        argv += ["--node-seconds=0.5", *self._flags]
        env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        env |= {"KUBECONFIG": str(self._kubeconfig), "PYTHONDONTWRITEBYTECODE": "1"}
        with (self._folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen([*argv], stdout=log, stderr=log, env=env)
        wait_for(lambda: self.writes() > 0, what="the first write of the condition")

    def kill(self) -> None:
        """SIGKILL, as a node's end would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(timeout=60)
        self._process = None
        return code

    def forget(self) -> None:
        """Lose what it remembers."""
        (self._folder / "state" / "state.json").unlink()

    def log(self, *texts: str, priority: int = 4) -> None:
        """Write records into the log, as the kernel does for facility 0 and for processes above."""
        now = int(time.monotonic() * 1e6)
        lines = [f"{priority},{self._sequence + n},{now},-;{text}\n" for n, text in enumerate(texts, start=1)]
        self._sequence += len(texts)
        with self.kmsg.open("a") as end:
            end.write("".join(lines))

    def condition(self) -> Object:
        """Return the condition as it is on the node, empty when there is none."""
        conditions = self._rest("GET", f"/api/v1/nodes/{self.node}")["status"]["conditions"]
        return next((c for c in conditions if c["type"] == "GPUHealthy"), {})

    def reason(self) -> tuple[str, str]:
        found = self.condition()
        return (found.get("status", ""), found.get("reason", ""))

    def metric(self, name: str) -> float:
        """Return a metric's sum over its labels, 0 while the agent does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return 0.0
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))

    def writes(self) -> float:
        return self.metric('internlm2_agent_condition_writes_total{outcome="written"}')

    def read(self) -> float:
        return self.metric("internlm2_agent_records_total")

    def becomes(self, status: str, reason: str) -> Object:
        wait_for(lambda: self.reason() == (status, reason), what=f"{status} {reason}", seconds=30)
        return self.condition()
