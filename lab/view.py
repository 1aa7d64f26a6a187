"""What a person sees while the lab works: steps with their time, and a live picture of one job."""

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from lab.watch import Seen

# Talk goes to stderr, data to stdout.
CONSOLE = Console(file=sys.stderr, highlight=False)
PLAIN_SECONDS = 5.0  # without a terminal: one line this often


def say(text: str) -> None:
    """Print one line of talk."""
    CONSOLE.print(text, markup=False, soft_wrap=True)


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Announce a step, and say how long it took."""
    say(f"... {what}")
    start = time.monotonic()
    yield
    say(f"    done in {time.monotonic() - start:.0f} s")


@contextlib.contextmanager
def live(seen: Seen) -> Iterator[None]:
    """Show the job while the block runs: a redrawn panel on a terminal, a line every 5 s elsewhere."""
    stop = threading.Event()
    show = _redraw if CONSOLE.is_terminal else _lines
    thread = threading.Thread(target=show, args=(seen, stop), name="view", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _redraw(seen: Seen, stop: threading.Event) -> None:
    with Live(console=CONSOLE, refresh_per_second=4) as canvas:
        while not stop.wait(0.25):
            canvas.update(Group(_header(seen), _members(seen), _events(seen)))
        canvas.update(Group(_header(seen), _events(seen)))


def _lines(seen: Seen, stop: threading.Event) -> None:
    told = 0
    while not stop.wait(PLAIN_SECONDS):
        for when, reason, message in seen.events[told:]:
            say(f"    event {when[11:19]} {reason}: {message}")
        told = len(seen.events)
        say(f"    {brief(seen)}")


def brief(seen: Seen) -> str:
    """Return the job in one line: phase, attempt, step, loss, speed, open faults."""
    status = seen.status
    newest = max(seen.steps, key=lambda s: s.time, default=None)
    parts = [f"{status.get('phase', 'Pending'):<10} attempt {status.get('attempt', 0)}"]
    if newest is not None:
        speed = f", {newest.tokens_per_second:,.0f} tokens/s" if newest.tokens_per_second else ""
        parts.append(f"step {newest.step} loss {newest.loss:.3f}{speed}")
    if seen.checkpoint:
        parts.append(f"checkpoint {seen.checkpoint}")
    parts += [f"{fault.get('cause')} on {fault.get('node')} open" for fault in seen.open]
    return " | ".join(parts)


def _header(seen: Seen) -> Panel:
    return Panel(brief(seen), title=f"InternLM2Job {seen.job.get('metadata', {}).get('name', '')}")


def _members(seen: Seen) -> Table:
    table = Table("pod", "node", "phase", box=None)
    for name, pod in sorted(seen.pods.items()):
        table.add_row(name, pod["node"] or "-", "Terminating" if pod["deleting"] else pod["phase"])
    return table


def _events(seen: Seen) -> Table:
    table = Table("time", "event", "", box=None)
    for when, reason, message in seen.events[-8:]:
        table.add_row(when[11:19], reason, message[:100])
    return table
