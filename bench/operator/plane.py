"""The processes that are measured: etcd, kube-apiserver, and the operator."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NoReturn

from tests.api.apiserver import ApiServer, free_ports
from tests.api.stage import SYSTEM

TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
START_SECONDS: Final = 120.0


class ControlPlane(ApiServer):
    """The API server of the tests with room for a big cluster."""

    @property
    def etcd_url(self) -> str:
        return f"http://127.0.0.1:{self._ports['etcd']}"

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def _apiserver_flags(self) -> Mapping[str, str]:
        room = {
            # No node controller takes the taint of a new node away here.
            "disable-admission-plugins": "ServiceAccount,TaintNodesByCondition",
            "max-requests-inflight": "1000",
            "max-mutating-requests-inflight": "500",
        }
        return {**super()._apiserver_flags(), **room}


class OperatorUnderLoad:
    """`python -m internlm2_operator run` under the chart's own rights; a restart is the same holder of the lease."""

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._kubeconfig = kubeconfig
        self.log = folder / "operator.log"
        self._port = free_ports(1)[0]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None, "the operator was not started"
        return self._process.pid

    def start(self) -> None:
        argv = [sys.executable, "-m", "internlm2_operator", "run", f"--metrics-port={self._port}"]
        env = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        env |= {"KUBECONFIG": str(self._kubeconfig), "POD_NAMESPACE": SYSTEM, "POD_NAME": "operator-0"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(argv, stdout=log, stderr=log, env=env)

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_until_leading(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.samples().get("internlm2_operator_leader") != 1.0:
            if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                self.give_up("the operator does not lead")
            time.sleep(0.1)

    def give_up(self, why: str) -> NoReturn:
        """End the benchmark with the end of the operator's log."""
        raise SystemExit(f"{why}; the end of its log:\n{self.log.read_text()[-3000:]}")

    def samples(self) -> dict[str, float]:
        """Return the operator's metrics by sample, empty while it does not serve them."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=30) as answer:
                lines = answer.read().decode().splitlines()
        except OSError:
            return {}
        return parsed(lines)


def parsed(lines: list[str]) -> dict[str, float]:
    """Return the samples of a Prometheus page."""
    pairs = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_SECONDS


def resident_mib(pid: int, field: str = "VmRSS") -> float:
    """Return the memory of a process in RAM, with field VmHWM the most it has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024
