"""`internlm2 checkpoints`: what the store holds, read with the job's own Secret as the operator reads it."""

from collections.abc import Sequence
from datetime import datetime

from internlm2_operator.api.job import InternLM2Job
from internlm2_operator.cli.answer import UNKNOWN, Answer, ago, columns, size
from internlm2_operator.cluster.checkpoints import CheckpointIndex, Stored, credentials_of
from internlm2_operator.cluster.gateway import Gateway
from internlm2_spec.config import Refused
from internlm2_spec.contract import step_prefix


async def ask(api: Gateway, job: InternLM2Job, now: datetime) -> Answer:
    """Verify every checkpoint of every stage by its manifest and the sizes of its objects.

    Raises:
        Refused: the checkpoints lie on a volume.
        NotFound: the job's Secret does not exist.
        StoreProblem: the store could not be read.
    """
    url = job.spec.checkpoint.url
    if not url.startswith("s3://"):
        known = job.status.checkpoint
        said = f"; the newest that the job told is step {known.step}" if known else ""
        raise Refused(
            "NAME",
            wrong=f"{job.name} keeps its checkpoints on a volume, {url}, that only its pods see{said}",
            right="run `python -m internlm2_trainer checkpoint list` where it is mounted",
        )
    credentials = credentials_of(await api.secret(job.namespace, job.spec.checkpoint.secret_name or ""))
    index = CheckpointIndex()
    found = [one for stage in job.spec.stages for one in await index.history(url, stage.name, credentials)]
    return told(job, found, now)


def told(job: InternLM2Job, found: Sequence[Stored], now: datetime) -> Answer:
    """Return all checkpoints, those of a stage newest first."""
    base = job.spec.checkpoint.url.rstrip("/")
    newest = {stage: max((s.step for s in found if s.stage == stage and not s.why), default=None) for stage in
              {s.stage for s in found}}  # fmt: skip
    rows = [("STAGE", "STEP", "STATE", "SIZE", "RANKS", "AGE")]
    wide = [(*rows[0], "URL")]
    for one in found:
        state = f"corrupt: {one.why}" if one.why else "newest" if one.step == newest[one.stage] else "verified"
        row = (one.stage, str(one.step), state, size(one.size), str(one.world or UNKNOWN), ago(one.time, now))
        rows.append(row)
        wide.append((*row, f"{base}/{step_prefix(one.stage, one.step)}"))
    urls = tuple(f"{base}/{step_prefix(one.stage, one.step)}" for one in found)
    return Answer(
        lines=tuple(columns(rows)) if found else (f"no checkpoints at {base}",),
        wide=tuple(columns(wide)) if found else None,
        data=[
            {
                "stage": one.stage,
                "step": one.step,
                "verified": not one.why,
                "newest": one.step == newest[one.stage],
                "corrupt": one.why,
                "bytes": one.size,
                "ranks": one.world,
                "time": one.time.isoformat() if one.time else None,
                "url": url,
            }
            for one, url in zip(found, urls, strict=True)
        ],
        names=urls,
    )
