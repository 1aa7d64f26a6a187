"""What the person may do in a namespace, and whether its quotas hold a job. Pure but for the asking."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from internlm2_operator.cli.quantity import amount
from internlm2_operator.cluster.gateway import Gateway
from internlm2_spec.contract import API_GROUP, PLURAL

# Verb, API group, resource, what it is for.
NEEDED: Final = (
    ("create", API_GROUP, PLURAL, "to submit the job"),
    ("get", API_GROUP, PLURAL, "for status, faults and why"),
    ("patch", API_GROUP, PLURAL, "for resize, suspend and resume"),
    ("list", "", "pods", "for why"),
    ("get", "", "pods/log", "for logs"),
    ("get", "", "secrets", "for checkpoints"),
)


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A quota that the job does not fit into."""

    quota: str
    resource: str
    hard: str
    used: str
    needed: Decimal

    def __str__(self) -> str:
        return f"quota {self.quota}: {self.resource} {self.used} of {self.hard} used, {self.needed:f} more are needed"


async def refused(api: Gateway, namespace: str) -> list[str]:
    """Return what the caller may not do, each with what it is for."""
    return [
        f"you may not {verb} {resource} in namespace {namespace}, {why}"
        for verb, group, resource, why in NEEDED
        if not await api.may(verb, group, resource, namespace)
    ]


def shortfalls(quotas: Sequence[Mapping[str, Any]], pods: Sequence[Mapping[str, Any]]) -> Iterator[Shortfall]:
    """Yield each resource of each quota that lacks room for all pods. Quotas with scopes are judged as if they held."""
    wanted = _wanted(pods)
    for quota in quotas:
        status = quota.get("status", {})
        for resource, hard in status.get("hard", {}).items():
            used = str(status.get("used", {}).get(resource, "0"))
            needed = wanted.get(resource, Decimal(0))
            if needed and amount(used) + needed > amount(hard):
                yield Shortfall(quota["metadata"]["name"], resource, str(hard), used, needed)


def _wanted(pods: Sequence[Mapping[str, Any]]) -> dict[str, Decimal]:
    """Return what the pods ask for by the names that quotas have. A limit is the request where there is none."""
    total: dict[str, Decimal] = {"pods": Decimal(len(pods)), "count/pods": Decimal(len(pods))}
    for pod in pods:
        for container in pod["spec"]["containers"]:
            asked = container.get("resources", {})
            limits = asked.get("limits") or {}
            for kind, amounts in (("requests", {**limits, **(asked.get("requests") or {})}), ("limits", limits)):
                for resource, asked_for in amounts.items():
                    for name in _names(kind, resource):
                        total[name] = total.get(name, Decimal(0)) + amount(asked_for)
    return total


def _names(kind: str, resource: str) -> tuple[str, ...]:
    """Return the quota names of a resource: cpu and memory alone mean their requests."""
    plain = (resource,) if kind == "requests" and resource in ("cpu", "memory", "ephemeral-storage") else ()
    return (f"{kind}.{resource}", *plain)
