"""spec.checkpoint: where the state of the run is kept."""

from typing import ClassVar, Final

from pydantic import Field

from internlm2_operator.api.base import OBJECT_NAME, ApiModel, Rule

# Bucket names as S3 has them; a file URL is absolute because it names a path inside the pod.
KNOWN_URL: Final = "^(s3://[a-z0-9][a-z0-9.-]+(/.*)?|file:///.+)$"
MAX_URL: Final = 512


def known_url(of: str, unless: str = "") -> Rule:
    """Return the rule that the `url` of an object, named `of` in the message, is one that can be opened."""
    return Rule(
        f"{unless}self.url.matches('{KNOWN_URL}')",
        f"{of} {{self.url}} has no known scheme or no path; write s3://BUCKET/PATH or file:///PATH",
        at=".url",
    )


class CheckpointSpec(ApiModel):
    """checkpoint says where checkpoints go, how often, and how many are kept."""

    url: str = Field(
        min_length=1,
        max_length=MAX_URL,
        description="url is the folder of the run's checkpoints: s3://BUCKET/PATH, or file:///PATH on a volume that"
        " every pod mounts. It cannot change.",
    )
    secret_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=253,
        pattern=OBJECT_NAME,
        description="secretName names the Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and optionally"
        " AWS_ENDPOINT_URL and AWS_REGION. It serves every s3:// URL of the job.",
    )
    every_steps: int = Field(
        default=50, ge=1, le=1000000, description="everySteps is the number of steps from one checkpoint to the next."
    )
    keep: int = Field(
        default=5, ge=2, le=1000, description="keep is the number of checkpoints of a stage that are not deleted."
    )
    keep_every_steps: int = Field(
        default=0,
        ge=0,
        le=1000000,
        description="keepEverySteps keeps the checkpoints of its multiples for ever, beside the newest; a multiple of"
        " everySteps, or 0 for none.",
    )
    memory_every_steps: int = Field(
        default=10,
        ge=0,
        le=1000000,
        description="memoryEverySteps is the number of steps from one copy in the pod's memory to the next, which a"
        " restart in place resumes from; 0 for none. It takes memory for two copies of the node's part of weights and"
        " optimizer, and is left out where that is more than half of the pod's.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        known_url("checkpoint.url"),
        Rule(
            "!self.url.startsWith('s3://') || has(self.secretName)",
            "checkpoint.secretName is missing although checkpoint.url is {self.url};"
            " name the Secret that holds AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        Rule(
            "self.keepEverySteps % self.everySteps == 0",
            "checkpoint.keepEverySteps {self.keepEverySteps} is not a multiple of everySteps {self.everySteps}, so that"
            " no checkpoint would be kept; use a multiple of {self.everySteps}, or 0 for none",
            at=".keepEverySteps",
        ),
        Rule(
            "self.url == oldSelf.url",
            "checkpoint.url {self.url} differs from the URL that the job was made with, {oldSelf.url};"
            " restore it, or make a new job",
            at=".url",
        ),
    )
