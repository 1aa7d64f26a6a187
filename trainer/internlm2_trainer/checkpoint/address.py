"""What a person means by the URL of a run, or of one of its steps."""

from dataclasses import dataclass

from internlm2_spec.config import Refused
from internlm2_spec.contract import MANIFEST_NAME, step_of, step_prefix
from internlm2_spec.manifest import published
from internlm2_trainer.storage import Store, open_store, retrying


@dataclass(frozen=True, slots=True)
class Step:
    """One published step, and the store of its run."""

    store: Store
    stage: str
    step: int

    @property
    def folder(self) -> str:
        return step_prefix(self.stage, self.step)


@dataclass(frozen=True, slots=True)
class Run:
    """A run's store and what it holds: stage -> published steps, newest first; and every object's size by key."""

    store: Store
    steps: dict[str, list[int]]
    sizes: dict[str, int]


def open_run(url: str) -> Run:
    """List what is under the URL of a run.

    Raises:
        Refused: there is no checkpoint.
    """
    store = open_store(url)
    sizes = {entry.key: entry.size for entry in retrying(lambda: store.list(""))}
    stages = sorted({key.split("/")[0] for key in sizes if key.endswith(f"/{MANIFEST_NAME}")})
    steps = {stage: found for stage in stages if (found := published(sizes, stage))}
    if not steps:
        raise Refused(url, wrong="has no checkpoint", right="give checkpoint.url of a run")
    return Run(store, steps, sizes)


def chosen(run: Run, *, stage: str | None, step: int | None) -> list[Step]:
    """Return the published steps that a person named, stages by name and steps newest first.

    Raises:
        Refused: there is no such stage or step.
    """
    url = run.store.url
    if stage is not None and stage not in run.steps:
        raise Refused(f"{url}/{stage}", wrong="is no stage with a checkpoint", right=f"use {', '.join(run.steps)}")
    found = [
        Step(run.store, name, each)
        for name, steps in run.steps.items()
        if stage in (None, name)
        for each in steps
        if step in (None, each)
    ]
    if not found:
        there = ", ".join(str(each) for name, steps in run.steps.items() if stage in (None, name) for each in steps)
        raise Refused(url, wrong=f"step {step} has no manifest", right=f"use one of {there}")
    return found


def split_url(url: str) -> tuple[str, str | None, int | None]:
    """Return the URL of the run, and stage and step if the URL ends with them."""
    head, _, leaf = url.rstrip("/").rpartition("/")
    root, _, stage = head.rpartition("/")
    step = step_of(leaf)
    return (url, None, None) if step is None or not stage else (root, stage, step)


def one_step(url: str) -> Step:
    """Return the step that a URL names; of a run with one stage, its newest.

    Raises:
        Refused: it names none, or a run with several stages.
    """
    root, stage, step = split_url(url)
    run = open_run(root)
    if stage is None and len(run.steps) > 1:
        example = f"{url.rstrip('/')}/{step_prefix(next(iter(run.steps)), next(iter(run.steps.values()))[0])}"
        raise Refused(url, wrong=f"has {len(run.steps)} stages", right=f"name a step, {example}")
    return chosen(run, stage=stage, step=step)[0]
