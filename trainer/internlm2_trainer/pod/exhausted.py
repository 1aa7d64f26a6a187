"""What to say when a rank is out of memory: the estimate, its largest part, and what would need less."""

from internlm2_spec import memory, search
from internlm2_spec.config import Stage
from internlm2_spec.gpus import GIB
from internlm2_spec.memory import Precision


def advice(stage: Stage, world: int, precision: Precision) -> str:
    """Return one line for a stage that has a legal layout on `world` ranks."""
    held = memory.of_stage(stage, world, precision)
    largest = held.parts()[held.largest]
    changes = [f"{text} ({_gib(total)})" for text, total in search.relief(stage, world, precision)[:3]]
    return (
        f"out of memory: {_gib(held.total)} were estimated for a rank, {_gib(largest)} of it {held.largest};"
        f" use {', or '.join(f'parallel.{change}' for change in changes) or 'more ranks'}"
    )


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
