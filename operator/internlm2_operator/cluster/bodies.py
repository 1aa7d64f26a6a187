"""Answers of servers that need not mean well."""

import aiohttp


async def read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read a whole answer.

    Raises:
        ValueError: it has more than `limit` bytes.
    """
    found = bytearray()
    async for chunk in answer.content.iter_any():
        found += chunk
        if len(found) > limit:
            raise ValueError(f"an answer of more than {limit} bytes")
    return bytes(found)
