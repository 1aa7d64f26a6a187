"""Following a log that a file or a FIFO stands for."""

import asyncio
import os
from pathlib import Path

from internlm2_operator.agent import kmsg


async def _lines(path: Path, count: int) -> list[tuple[bytes, bool]]:
    found: list[tuple[bytes, bool]] = []
    async for batch in kmsg.batches(path):
        found += [(line, batch.live) for line in batch.lines]
        if len(found) >= count:
            break
    return found


def test_what_was_there_comes_first_and_is_not_live(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_bytes(b"one\ntwo\nthr")

    async def scene() -> list[tuple[bytes, bool]]:
        reading = asyncio.create_task(_lines(log, 4))
        await asyncio.sleep(0.2)
        with log.open("ab") as end:
            end.write(b"ee\nfour\n")
        return await asyncio.wait_for(reading, 30)

    assert asyncio.run(scene()) == [(b"one", False), (b"two", False), (b"three", True), (b"four", True)]


def test_a_storm_loses_nothing(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    want = [f"{number},x" for number in range(20_000)]
    log.write_text("\n".join(want) + "\n")
    found = asyncio.run(_lines(log, len(want)))
    assert [line.decode() for line, _ in found] == want


def test_a_fifo(tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    os.mkfifo(log)

    async def scene() -> list[tuple[bytes, bool]]:
        reading = asyncio.create_task(_lines(log, 1))
        await asyncio.sleep(0.2)
        end = os.open(log, os.O_WRONLY | os.O_NONBLOCK)
        os.write(end, b"one\n")
        os.close(end)
        return await asyncio.wait_for(reading, 30)

    assert asyncio.run(scene()) == [(b"one", True)]
