"""How the operator is started: flags, each with an environment variable behind it."""

import argparse
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Options:
    """`namespace` empty means all of them; `own_namespace` is where the Lease lives."""

    namespace: str
    own_namespace: str
    identity: str
    prometheus_url: str
    metrics_port: int
    workers: int
    verbose: bool


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read flags; exits with 2 and one line when they make no sense."""
    found = _parser(environment).parse_args(arguments)
    return Options(
        namespace=found.namespace,
        own_namespace=environment.get("POD_NAMESPACE") or _own_namespace(),
        # A container that was restarted in its pod is the same holder and need not wait for its own lease.
        identity=environment.get("POD_NAME") or f"{socket.gethostname()}_{os.getpid()}",
        prometheus_url=found.prometheus_url,
        metrics_port=found.metrics_port,
        workers=found.workers,
        verbose=found.verbose,
    )


def _parser(environment: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m internlm2_operator",
        description="Runs InternLM2Jobs: pods, node faults, recovery. Reaches the cluster from inside a pod,"
        " or by KUBECONFIG.",
    )
    run = parser.add_subparsers(dest="verb", required=True, metavar="run").add_parser("run", help="run until SIGTERM")
    add = run.add_argument
    add("--namespace", default=environment.get("WATCH_NAMESPACE", ""), help="only jobs in this one (WATCH_NAMESPACE)")
    add(
        "--prometheus-url",
        default=environment.get("PROMETHEUS_URL", ""),
        help="where GPU metrics are asked for, http://HOST:PORT; without it XIDs are not seen (PROMETHEUS_URL)",
    )
    add(
        "--metrics-port",
        type=int,
        default=environment.get("METRICS_PORT", "8080"),
        help="port of /metrics and /healthz, default 8080 (METRICS_PORT)",
    )
    add("--workers", type=int, default=16, help="jobs and nodes looked at at once, default 16")
    add("--verbose", action="store_true", help="log debug lines")
    return parser


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
