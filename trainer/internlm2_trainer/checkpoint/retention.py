"""Which objects go when newer steps have come: manifests before shards, and nothing that is not ours."""

from collections.abc import Callable, Sequence

from internlm2_spec.contract import MANIFEST_NAME, step_of
from internlm2_spec.manifest import kept, published
from internlm2_trainer.storage import Missing, Store, StoreUnavailable


def retain(store: Store, stage: str, *, keep: int, keep_every: int, before: int, damaged: frozenset[int]) -> None:
    """Delete what retention does not keep of the steps below `before`; what fails is left to the next save."""
    try:
        listed = [entry.key for entry in store.list(f"{stage}/")]
        steps = [step for step in published(listed, stage) if step not in damaged]
        stay = kept(steps, keep=keep, keep_every=keep_every)
        store.delete(objects_of(listed, stage, lambda step: step < before and step not in stay))
    except (StoreUnavailable, Missing):
        return


def give_up(store: Store, stage: str, *, since: int) -> None:
    """Delete every step from `since` on."""
    listed = [entry.key for entry in store.list(f"{stage}/")]
    store.delete(objects_of(listed, stage, lambda step: step >= since))


def objects_of(keys: Sequence[str], stage: str, chosen: Callable[[int], bool]) -> list[str]:
    """Return the keys of a stage's chosen steps in the order to delete them: every manifest before any shard.

    Shards that a killed save left behind are among them; files that are not ours are not.
    """
    found = []
    for key in keys:
        folder, _, name = key.rpartition("/")
        parent, _, leaf = folder.rpartition("/")
        ours = name == MANIFEST_NAME or name.endswith(".safetensors")
        if ours and parent == stage and (step := step_of(leaf)) is not None and chosen(step):
            found.append(key)
    return sorted(found, key=lambda key: not key.endswith(f"/{MANIFEST_NAME}"))
