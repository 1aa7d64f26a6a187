"""What Python writes about one exception becomes one entry."""

from datetime import UTC, datetime, timedelta

import pytest

from internlm2_operator.health.tracebacks import Entry, gather

T0 = datetime(2026, 3, 1, 12, tzinfo=UTC)

PLAIN = """Traceback (most recent call last):
  File "train.py", line 7, in <module>
    main()
  File "train.py", line 3, in main
    raise ValueError("x")
ValueError: x"""
CHAINED = """Traceback (most recent call last):
  File "io.py", line 2, in read
    sock.recv()
ConnectionResetError: [Errno 104] Connection reset by peer

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "train.py", line 9, in step
    raise RuntimeError("read") from error
RuntimeError: read"""
SYNTAX = """  File "train.py", line 3
    foo(
       ^
SyntaxError: '(' was never closed"""


def entries(text: str) -> list[Entry]:
    return gather((T0 + timedelta(seconds=i), line) for i, line in enumerate(text.splitlines()))


FIRST = {
    "the last line is the error": (PLAIN, ("ValueError: x",), 'File "train.py", line 3, in main'),
    "a chain is one, its errors in order": (
        CHAINED,
        ("ConnectionResetError: [Errno 104] Connection reset by peer", "RuntimeError: read"),
        'File "train.py", line 9, in step',
    ),
    "a head that was cut off is not missed": (
        PLAIN.split("\n", 1)[1],
        ("ValueError: x",),
        'File "train.py", line 3, in main',
    ),
    "an error of syntax has no head": (SYNTAX, ("SyntaxError: '(' was never closed",), 'File "train.py", line 3'),
    "the head may stand behind a logger's words": (
        f"ERROR:root:failed {PLAIN}",
        ("ValueError: x",),
        'File "train.py", line 3, in main',
    ),
    "a module's name in small letters is one": (
        PLAIN.replace("ValueError: x", "socket.timeout: timed out"),
        ("socket.timeout: timed out",),
        'File "train.py", line 3, in main',
    ),
}


@pytest.mark.parametrize(("text", "errors", "frame"), FIRST.values(), ids=FIRST)
def test_traceback_is_one_entry_of_its_first_line_s_time(text: str, errors: tuple[str, ...], frame: str) -> None:
    (only,) = entries(text)
    assert (only.at, only.errors, only.frame, only.traceback) == (T0, errors, frame, True)


def test_lines_of_other_threads_stay_entries_of_their_own() -> None:
    lines = PLAIN.splitlines()
    mixed = [lines[0], "KeyError: y", *lines[1:3], "loss: 2.1", "WARNING: slow", *lines[3:], "bye"]
    found = entries("\n".join(mixed))
    assert [entry.errors[0] for entry in found] == ["ValueError: x", "KeyError: y", "loss: 2.1", "WARNING: slow", "bye"]


def test_two_tracebacks_are_two() -> None:
    assert [entry.at for entry in entries(f"{PLAIN}\n{PLAIN}")] == [T0, T0 + timedelta(seconds=6)]


NONE = {
    "a traceback without its error says nothing": "\n".join(PLAIN.splitlines()[:-1]),
    "the stacks of faulthandler are none": 'Current thread 0x1 (most recent call first):\n  File "a.py", line 1 in f',
}


@pytest.mark.parametrize("text", NONE.values(), ids=NONE)
def test_no_traceback(text: str) -> None:
    assert not any(entry.traceback for entry in entries(text))
