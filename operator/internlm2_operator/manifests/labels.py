"""Labels of the objects of a job, and how a pod's labels read back. Nobody else spells them."""

from typing import Final

from internlm2_spec import contract

ROLE_TRAINER: Final = "trainer"


def of_job(job: str) -> dict[str, str]:
    """Return the labels that every object of the job carries; they select its pods too."""
    return {contract.LABEL_JOB: job}


def of_stage(job: str, stage: int) -> dict[str, str]:
    return of_job(job) | {contract.LABEL_STAGE: str(stage)}


def of_member(job: str, *, stage: int, attempt: int, slot: int, replacement: int) -> dict[str, str]:
    return of_stage(job, stage) | {
        contract.LABEL_ATTEMPT: str(attempt),
        contract.LABEL_SLOT: str(slot),
        contract.LABEL_REPLACEMENT: str(replacement),
        contract.LABEL_ROLE: ROLE_TRAINER,
    }
