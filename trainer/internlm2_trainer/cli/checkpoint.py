"""`python -m internlm2_trainer checkpoint VERB`: look at checkpoints, compare them, delete old ones.

A verb is a function that takes the group of sub-commands and adds its own: one entry in `VERBS`. Only
`diff`, `export` and `import` load torch.
"""

import argparse
import datetime
import functools
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any, Final

from internlm2_spec.config import Refused
from internlm2_spec.contract import MANIFEST_NAME, step_prefix
from internlm2_spec.fence import Fence
from internlm2_spec.manifest import Manifest, elements, kept
from internlm2_trainer.checkpoint import address, fence, retention, verify
from internlm2_trainer.checkpoint.address import Run, Step
from internlm2_trainer.cli import weights
from internlm2_trainer.cli.verbs import MIB, Group, Progress, add_verb
from internlm2_trainer.storage import Missing, StoreUnavailable, retrying


def main(arguments: list[str]) -> int:
    """Run one verb. Returns 0, 1 where something is damaged or differs, 2 for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="internlm2_trainer checkpoint",
        description="Look at checkpoints. URL is the folder of a run, s3://BUCKET/PATH or file:///PATH, as in"
        " checkpoint.url; S3 takes the usual AWS_ variables.",
    )
    group = parser.add_subparsers(required=True, metavar="VERB")
    for add in VERBS:
        add(group)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    except StoreUnavailable as error:
        print(f"the storage does not answer: {error}", file=sys.stderr)
        return 1
    return code


def add_list(group: Group) -> None:
    """Add `list`."""
    verb = add_verb(group, "list", "list the steps of a run", run_list, "s3://bucket/run1 --stage pretrain-4k")
    verb.add_argument("url", metavar="URL", help="the run")
    verb.add_argument("--stage", help="only this stage")


def run_list(options: argparse.Namespace) -> int:
    """Print a line a step, from the listing and the manifests alone."""
    run = address.open_run(options.url)
    held = retrying(lambda: fence.read(run.store))
    rows = [_summary(run, step, held) for step in address.chosen(run, stage=options.stage, step=None)]
    if options.json:
        _print_json({"steps": rows})
    else:
        columns = ("stage", "step", "time", "attempt", "ranks", "tensors", "MiB", "state")
        _print_table([columns, *(tuple(row[c] for c in columns) for row in rows)])
    return 0


def add_verify(group: Group) -> None:
    """Add `verify`."""
    verb = add_verb(group, "verify", "read every byte of steps and check it", run_verify, "s3://bucket/run1 --all")
    verb.add_argument("url", metavar="URL", help="a run, of which the newest step of each stage is read, or a step")
    verb.add_argument("--stage", help="only this stage")
    verb.add_argument("--step", type=int, help="only this step")
    verb.add_argument("--all", action="store_true", help="every step")


def run_verify(options: argparse.Namespace) -> int:
    """Print what is wrong with each step; 1 if anything is."""
    root, stage, step = address.split_url(options.url)
    run = address.open_run(root)
    steps = address.chosen(run, stage=stage or options.stage, step=step if step is not None else options.step)
    if not options.all:
        newest = {each.stage: each for each in reversed(steps)}
        steps = sorted(newest.values(), key=lambda each: each.stage)
    held = retrying(lambda: fence.read(run.store))
    results: list[dict[str, Any]] = []
    for each in steps:
        manifest, reason = verify.inspect(run.store, each.stage, each.step, listed=run.sizes, fence=held)
        if manifest is not None and reason is None:
            total = sum(stored.size for stored in manifest.objects)
            progress = Progress(f"verify {each.folder}", total)
            reason = verify.damage(run.store, each.folder, manifest.objects, noticed=progress.add)
        results.append({"stage": each.stage, "step": each.step, "damage": reason})
    if options.json:
        _print_json({"steps": results})
    else:
        _print_table([(step_prefix(r["stage"], r["step"]), r["damage"] or "whole") for r in results])
    return int(any(result["damage"] for result in results))


def add_show(group: Group) -> None:
    """Add `show`."""
    example = "s3://bucket/run1/pretrain-4k/step-00000050"
    verb = add_verb(group, "show", "print what one step's manifest says", run_show, example)
    verb.add_argument("url", metavar="URL", help="a step, or a run of one stage, of which the newest is shown")
    verb.add_argument("--tensors", action="store_true", help="a line a tensor, too")


def run_show(options: argparse.Namespace) -> int:
    """Print a step's facts, and with `--tensors` type, shape and number of slices of each tensor."""
    step = address.one_step(options.url)
    manifest = _manifest(step)
    facts = {
        "stage": manifest.stage,
        "step": manifest.step,
        "time": _moment(manifest),
        "attempt": manifest.attempt,
        "ranks": manifest.world,
        "objects": len(manifest.objects),
        "bytes": sum(stored.size for stored in manifest.objects),
        "tensors": len(manifest.tensors),
        "elements": sum(elements(tensor.shape) for tensor in manifest.tensors.values()),
        "extra": manifest.extra,
    }
    tensors = {name: [t.dtype, list(t.shape), len(t.slices)] for name, t in sorted(manifest.tensors.items())}
    if options.json:
        _print_json(facts | {"tensors": tensors})
        return 0
    _print_table([(name, json.dumps(value) if isinstance(value, dict) else value) for name, value in facts.items()])
    if options.tensors:
        print()
        _print_table([("tensor", "type", "shape", "slices"), *((name, *rest) for name, rest in tensors.items())])
    return 0


def add_diff(group: Group) -> None:
    """Add `diff`."""
    example = "s3://bucket/run1/pretrain/step-00000050 s3://bucket/run2/pretrain/step-00000050"
    verb = add_verb(group, "diff", "compare two steps tensor by tensor, under any layouts", run_diff, example)
    verb.add_argument("one", metavar="URL", help="a step, or a run of one stage, of which the newest is taken")
    verb.add_argument("other", metavar="URL", help="another one")


def run_diff(options: argparse.Namespace) -> int:
    """Print the tensors whose bits differ; 1 if any do."""
    one, other = address.one_step(options.one), address.one_step(options.other)
    first, second = _manifest(one), _manifest(other)
    from internlm2_trainer.checkpoint.difference import differences

    count = sum(elements(t.shape) for manifest in (first, second) for t in manifest.tensors.values())
    progress = Progress("diff", count, unit="M elements")
    rows = [
        {"tensor": d.name, "reason": d.reason, "elements": d.count, "differing": d.differing, "largest": d.largest}
        for d in differences((one, first), (other, second), noticed=progress.add)
    ]
    extra = {key: [first.extra.get(key), second.extra.get(key)] for key in first.extra.keys() | second.extra.keys()}
    extra = {key: pair for key, pair in sorted(extra.items()) if pair[0] != pair[1]}
    if options.json:
        _print_json({"tensors": rows, "extra": extra})
    else:
        for row in rows:
            told = f"{row['differing']} of {row['elements']} elements differ, by at most {row['largest']:.3g}"
            print(f"{row['tensor']}  {row['reason'] or told}")
        for key, pair in extra.items():
            print(f"extra.{key}  {json.dumps(pair[0])} and {json.dumps(pair[1])}")
        if not rows and not extra:
            print(f"the same: {len(first.tensors)} tensors, bit by bit")
    return int(bool(rows or extra))


def add_prune(group: Group) -> None:
    """Add `prune`."""
    verb = add_verb(group, "prune", "delete old steps of a run", run_prune, "s3://bucket/run1 --keep 3 --delete")
    verb.add_argument("url", metavar="URL", help="the run")
    verb.add_argument("--stage", help="only this stage")
    verb.add_argument("--keep", type=int, required=True, help="how many of the newest steps of each stage stay")
    verb.add_argument("--keep-every", type=int, default=0, metavar="N", help="multiples of N stay as well")
    verb.add_argument("--delete", action="store_true", help="delete; without it only say what would go")


def run_prune(options: argparse.Namespace) -> int:
    """Delete what does not stay, manifests first, with what killed saves left below the newest step."""
    for name, least in (("keep", 1), ("keep_every", 0)):
        if getattr(options, name) < least:
            wrong = f"{getattr(options, name)} is too small"
            raise Refused(f"--{name.replace('_', '-')}", wrong=wrong, right=f"use {least} or more")
    run = address.open_run(options.url)
    address.chosen(run, stage=options.stage, step=None)
    doomed: list[str] = []
    for stage in [options.stage] if options.stage else run.steps:
        steps = run.steps[stage]
        stay = kept(steps, keep=options.keep, keep_every=options.keep_every)
        goes = functools.partial(_goes, stay=stay, newest=steps[0])
        doomed += retention.objects_of(list(run.sizes), stage, goes)
    steps_gone = sorted({key.rpartition("/")[0] for key in doomed if key.endswith(MANIFEST_NAME)})
    size = sum(run.sizes[key] for key in doomed)
    if options.delete:
        progress = Progress("prune", size)
        for key in doomed:
            retrying(functools.partial(run.store.delete, [key]))
            progress.add(run.sizes[key])
    if options.json:
        _print_json({"deleted": options.delete, "steps": steps_gone, "objects": len(doomed), "bytes": size})
    else:
        for folder in steps_gone:
            print(folder)
        done = "deleted" if options.delete else "to delete with --delete"
        print(f"{len(steps_gone)} steps, {len(doomed)} objects, {size / MIB:.1f} MiB {done}")
    return 0


def _goes(step: int, *, stay: frozenset[int], newest: int) -> bool:
    return step < newest and step not in stay


VERBS: Final[tuple[Callable[[Group], None], ...]] = (
    add_list,
    add_verify,
    add_show,
    add_diff,
    weights.add_export,
    weights.add_import,
    add_prune,
)


def _summary(run: Run, step: Step, held: Fence) -> dict[str, Any]:
    manifest, reason = verify.inspect(run.store, step.stage, step.step, listed=run.sizes, fence=held)
    size = sum(size for key, size in run.sizes.items() if key.startswith(f"{step.folder}/"))
    return {
        "stage": step.stage,
        "step": step.step,
        "time": _moment(manifest) if manifest else "",
        "attempt": manifest.attempt if manifest else "",
        "ranks": manifest.world if manifest else "",
        "tensors": len(manifest.tensors) if manifest else "",
        "MiB": round(size / MIB, 1),
        "state": reason or "complete",
    }


def _manifest(step: Step) -> Manifest:
    try:
        return verify.read_manifest(step.store, step.stage, step.step)
    except (ValueError, Missing) as error:
        url = f"{step.store.url}/{step.folder}/{MANIFEST_NAME}"
        raise Refused(url, wrong=f"cannot be read ({error})", right="name another step") from None


def _moment(manifest: Manifest) -> str:
    return datetime.datetime.fromtimestamp(manifest.time, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def _print_table(rows: Iterable[tuple[Any, ...]]) -> None:
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
