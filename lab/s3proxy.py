"""A proxy in front of the lab's S3 server that makes it slow, or turns bits on the way to it.

It knows nothing of HTTP: a piece of 4 KiB or more that is read at once ends in a body, never in a header, so the bit
that is turned is one of its last byte.
"""

import argparse
import asyncio
import random
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

PIECE: Final = 65536
BULK: Final = 4096


@dataclass(frozen=True, slots=True)
class Weather:
    """`delay` seconds before the first byte of a connection, `rate` bytes a second (0: no limit), `flip` a share."""

    delay: float
    rate: float
    flip: float


def turned(piece: bytes, chance: float, share: float) -> bytes:
    """Return the piece, with one bit turned where it is bulk and `chance` (0 to 1) falls below `share`."""
    if len(piece) < BULK or chance >= share:
        return piece
    return piece[:-1] + bytes([piece[-1] ^ 1])


async def serve(listen: str, to: str, weather: Weather) -> None:
    """Forward connections until cancelled."""
    host, _, port = listen.rpartition(":")
    server = await asyncio.start_server(partial(_connection, to, weather), host, int(port))
    async with server:
        await server.serve_forever()


async def _connection(to: str, weather: Weather, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    host, _, port = to.rpartition(":")
    try:
        await asyncio.sleep(weather.delay)
        behind, towards = await asyncio.open_connection(host, int(port))
    except OSError:
        writer.close()
        return
    ways = (_pump(reader, towards, weather), _pump(behind, writer, replace(weather, flip=0.0)))
    await asyncio.gather(*ways, return_exceptions=True)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, weather: Weather) -> None:
    try:
        while piece := await reader.read(PIECE):
            if weather.rate:
                await asyncio.sleep(len(piece) / weather.rate)
            writer.write(turned(piece, random.random(), weather.flip))
            await writer.drain()
    finally:
        writer.close()


def main() -> None:
    """Run until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", required=True, help="HOST:PORT")
    parser.add_argument("--to", required=True, help="HOST:PORT of the server")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before a connection's first byte")
    parser.add_argument("--bytes-per-second", type=float, default=0.0, help="of each direction of a connection")
    parser.add_argument("--flip", type=float, default=0.0, help="share of bulk pieces on the way in with a bit turned")
    given = parser.parse_args()
    asyncio.run(serve(given.listen, given.to, Weather(given.delay, given.bytes_per_second, given.flip)))


if __name__ == "__main__":
    main()
