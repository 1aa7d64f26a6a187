"""`internlm2 resize`, `suspend`, `resume`: the only verbs that write, and what they write."""

from typing import Any, Final

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli.answer import Answer
from internlm2_operator.cli.text import job_name
from internlm2_operator.cluster.gateway import Gateway
from internlm2_spec.config import Refused

MANAGER: Final = "internlm2-cli"


async def change(api: Gateway, namespace: str, name: str, wanted: dict[str, Any]) -> Answer:
    """Merge `wanted` into the spec of a job that exists.

    Raises:
        NotFound: there is no such job.
        GiveUp: the API server refuses the new spec; the message is its own.
    """
    before = InternLM2Job.from_object(await api.job(namespace, name))
    after = InternLM2Job.from_object(await api.patch_job(namespace, name, {"spec": wanted}, manager=MANAGER))
    return told(before, after)


def sizes(least: int | None, most: int | None) -> dict[str, Any]:
    """Return the change of `nodes`.

    Raises:
        Refused: neither bound was given.
    """
    wanted = {key: value for key, value in (("min", least), ("max", most)) if value is not None}
    if not wanted:
        raise Refused("--min, --max", wrong="both are missing", right="set at least one, as in --max 8")
    return {"nodes": wanted}


def told(before: InternLM2Job, after: InternLM2Job) -> Answer:
    """Return what differs, in the words of the manifest."""
    pairs = (
        ("nodes.min", before.spec.nodes.min, after.spec.nodes.min),
        ("nodes.max", before.spec.nodes.max, after.spec.nodes.max),
        ("suspend", before.spec.suspend, after.spec.suspend),
    )
    changes = [f"{field} {_plain(old)} -> {_plain(new)}" for field, old, new in pairs if old != new]
    return Answer(
        lines=(f"{job_name(after)}: {', '.join(changes) or 'unchanged'}",),
        data={field: {"before": old, "after": new} for field, old, new in pairs if old != new},
        names=(job_name(after),),
    )


def _plain(value: object) -> str:
    return str(value).lower()
