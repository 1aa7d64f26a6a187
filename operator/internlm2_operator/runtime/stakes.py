"""What the jobs on a node have at stake when it is to be cordoned."""

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.health.cordon import Limits, Mode, Stake
from internlm2_operator.plan.constraints import constraints
from internlm2_operator.plan.placement import fits
from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.world import World


def jobs_on(world: World, node: str) -> list[InternLM2Job]:
    """Return the jobs of a node by key; those that cannot be read are not there."""
    return [world.jobs[key] for key in sorted(world.jobs_of_node(node)) if key in world.jobs]


def stakes(world: World, node: str, *, counted: bool) -> list[Stake]:
    """Return what each job on a node has at stake. What it could run on is only worked out when it is `counted`."""
    jobs = jobs_on(world, node)
    if not counted:
        return [Stake(Mode(job.spec.health.mode)) for job in jobs]
    return [
        Stake(Mode(job.spec.health.mode), job.spec.nodes.min + job.spec.nodes.spares, _reach(world, job))
        for job in jobs
    ]


def label_of(world: World, node: str, label: str = RACK) -> str:
    """Return the label whose value names a node's switch or rack: that which the jobs on it name, else `label`."""
    named = (job.spec.topology.label for job in jobs_on(world, node) if job.spec.topology is not None)
    return next(named, label)


def limits(world: World, node: str, label: str = RACK) -> Limits:
    """Return the breaker: the most careful job on the node sets it."""
    jobs = jobs_on(world, node)
    percent = min((job.spec.health.max_cordon_percent for job in jobs), default=Limits().percent)
    return Limits(percent=percent, label=label_of(world, node, label))


def _reach(world: World, job: InternLM2Job) -> frozenset[str]:
    nodes, wanted = job.spec.nodes, constraints(job.spec)
    held = {pod.node for pod in world.pods(job.key)}
    return frozenset(
        n.name
        for n in world.nodes(nodes.resource_name).values()
        if (n.name in held and n.ready) or fits(n, nodes.gpus_per_node, wanted)
    )
