"""How the operator is started: flags, each with an environment variable behind it."""

import argparse
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from internlm2_operator.plan.topology import RACK

_MATCHER: Final = r'[a-zA-Z_]\w*(?:=|!=|=~|!~)"(?:\\.|[^"\\\n])*"'
_MATCHERS: Final = re.compile(rf"(?:{_MATCHER}(?:\s*,\s*{_MATCHER})*)?", re.ASCII)
_NAMESPACE: Final = re.compile("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_NAMESPACE_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


@dataclass(frozen=True, slots=True)
class Options:
    """`namespaces` empty means all of them; `own_namespace` is where the Lease and the ConfigMap `log_rules` live."""

    namespaces: tuple[str, ...]
    own_namespace: str
    identity: str
    prometheus_url: str
    prometheus_match: str
    topology_label: str
    log_rules: str
    check_image: str  # empty: nodes are not checked
    check_resource: str
    metrics_port: int
    workers: int
    verbose: bool


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read flags; exits with 2 and one line when they make no sense."""
    found = _parser(environment).parse_args(arguments)
    return Options(
        namespaces=found.namespaces,
        own_namespace=environment.get("POD_NAMESPACE") or _own_namespace(),
        # A container that was restarted in its pod is the same holder and need not wait for its own lease.
        identity=environment.get("POD_NAME") or f"{socket.gethostname()}_{os.getpid()}",
        prometheus_url=found.prometheus_url,
        prometheus_match=found.prometheus_match,
        topology_label=found.topology_label,
        log_rules=found.log_rules,
        check_image=found.node_check_image,
        check_resource=found.node_check_resource,
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
    add(
        "--namespaces",
        type=_namespaces,
        default=environment.get("WATCH_NAMESPACES", ""),
        metavar="NAME,...",
        help="only jobs in these; all if there is none (WATCH_NAMESPACES)",
    )
    add(
        "--prometheus-url",
        default=environment.get("PROMETHEUS_URL", ""),
        help="where GPU metrics are asked for, http://HOST:PORT; without it XIDs are not seen (PROMETHEUS_URL)",
    )
    add(
        "--prometheus-match",
        type=_match,
        default="",
        metavar="MATCHERS",
        help='labels that GPU exporters have and pods of users cannot take, such as namespace="gpu-operator";'
        " without it whoever is scraped can say that a GPU has failed",
    )
    add(
        "--topology-label",
        default=RACK,
        help="nodes with one value of this label share a switch or a rack, where jobs name none; default " + RACK,
    )
    add(
        "--log-rules",
        default="",
        metavar="CONFIGMAP",
        help="ConfigMap in the operator's namespace whose rules.yaml adds rules of rank logs; it may come later",
    )
    add(
        "--node-check-image",
        default=environment.get("NODE_CHECK_IMAGE", ""),
        help="image of the trainer for checks of nodes; without it none is checked (NODE_CHECK_IMAGE)",
    )
    add(
        "--node-check-resource",
        default=environment.get("NODE_CHECK_RESOURCE", "nvidia.com/gpu"),
        help="GPU resource of nodes to check, default nvidia.com/gpu (NODE_CHECK_RESOURCE)",
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


def _match(text: str) -> str:
    if not _MATCHERS.fullmatch(text):
        raise argparse.ArgumentTypeError(f'{text!r} are no label matchers; write LABEL="VALUE", separated by commas')
    return text


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(","))) if text.strip() else ()
    for name in names:
        if not _NAMESPACE.fullmatch(name):
            raise argparse.ArgumentTypeError(f"{name!r} is no namespace; write their names, separated by commas")
    return names


def _own_namespace() -> str:
    return _NAMESPACE_FILE.read_text().strip() if _NAMESPACE_FILE.exists() else "default"
