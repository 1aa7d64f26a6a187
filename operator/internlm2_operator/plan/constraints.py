"""Which nodes may carry a job's pods at all: those its node selector names, with no taint that its pods don't tolerate.

The scheduler would leave a pod that is pinned to any other node waiting for ever.
"""

from dataclasses import dataclass

from internlm2_operator.api.spec import Spec
from internlm2_operator.api.template import Toleration
from internlm2_operator.health.node import NodeRecord, Taint


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a job asks of every node. Jobs with equal ones can use the same nodes."""

    selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()


def constraints(spec: Spec) -> Constraints:
    """Return what a job asks of every node."""
    return Constraints(tuple(sorted((spec.template.node_selector or {}).items())), tolerations(spec))


def tolerations(spec: Spec) -> tuple[Toleration, ...]:
    """Return what a job's pods tolerate: the taint that keeps pods without GPUs off GPU nodes, and what the user adds.

    The first is what the admission plugin ExtendedResourceToleration gives to pods where it is on.
    """
    return of_resource(spec.nodes.resource_name), *spec.template.tolerations


def of_resource(name: str) -> Toleration:
    """Return what tolerates the taint of nodes that are kept for pods which ask for this resource."""
    return Toleration(key=name, operator="Exists", effect="NoSchedule")


def admits(node: NodeRecord, wanted: Constraints) -> bool:
    """Say whether the node's labels and taints let the pods in."""
    return all(pair in node.labels for pair in wanted.selector) and all(
        any(_tolerates(each, taint) for each in wanted.tolerations) for taint in node.taints
    )


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    """As the scheduler does, but for a toleration that ends: a pod that is evicted in a while is not worth placing."""
    if toleration.effect not in (None, taint.effect) or toleration.toleration_seconds is not None:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    return toleration.operator == "Exists" or (bool(toleration.key) and (toleration.value or "") == taint.value)
