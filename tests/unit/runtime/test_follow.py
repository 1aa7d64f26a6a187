"""A watch goes on where it broke, begins anew when that is forgotten, and survives an object it cannot read."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from internlm2_operator.cluster import errors
from internlm2_operator.cluster.gateway import NODES, Census, Kind
from internlm2_operator.runtime import follow
from internlm2_operator.runtime.follow import Follower

Answer = list[dict[str, Any]] | Exception


class Server:
    """Answers each LIST and each WATCH with the next that was laid ready, and remembers what was asked."""

    def __init__(self, lists: list[tuple[list[str], int]], watches: list[Answer]) -> None:
        self.lists, self.watches = lists, watches
        self.asked: list[int] = []

    async def census(self, _: Kind, take: Callable[[dict[str, Any]], object]) -> Census:
        names, version = self.lists.pop(0)
        for name in names:
            take(thing(name, version)["object"])
        return Census(frozenset(names), version)

    async def watch(self, _: Kind, version: int, *, seconds: int) -> AsyncIterator[dict[str, Any]]:
        assert follow.SHORTEST_WATCH <= seconds <= follow.LONGEST_WATCH
        self.asked.append(version)
        if not self.watches:
            raise asyncio.CancelledError
        answer = self.watches.pop(0)
        if isinstance(answer, Exception):
            raise answer
        for event in answer:
            yield event


def thing(name: str, version: int, kind: str = "MODIFIED") -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "uid": name, "resourceVersion": str(version)}}}


class Namespaces:
    """Two namespaces, one of which may refuse; `gone` are the LISTs that somebody was buried by."""

    def __init__(self) -> None:
        self.holds: dict[str, tuple[list[str], int] | errors.ClusterError] = {"/a": (["a1"], 7), "/b": (["b1"], 9)}
        self.taken: list[str] = []
        self.gone: list[Census] = []

    async def census(self, kind: Kind, take: Callable[[dict[str, Any]], object]) -> Census:
        found = self.holds[kind.path]
        if isinstance(found, Exception):
            raise found
        for name in found[0]:
            take(thing(name, found[1])["object"])
        return Census(frozenset(found[0]), found[1])

    def take(self, _: str, raw: dict[str, Any]) -> bool:
        self.taken.append(raw["metadata"]["name"])
        return True

    def bury(self, listing: Census) -> int:
        self.gone.append(listing)
        return 0

    def follower(self, *kinds: Kind) -> Follower:
        return Follower(self, *kinds, take=self.take, bury=self.bury)  # type: ignore[arg-type]


A, B = Kind("/a"), Kind("/b")


def test_several_namespaces_are_one_listing_as_old_as_its_oldest_part() -> None:
    server = Namespaces()
    assert asyncio.run(server.follower(A, B).list()) == 2
    assert (server.taken, server.gone) == (["a1", "b1"], [Census(frozenset({"a1", "b1"}), 7)])


def test_a_namespace_that_refuses_us_is_left_out_and_nothing_counts_as_gone(caplog: pytest.LogCaptureFixture) -> None:
    server = Namespaces()
    follower = server.follower(A, B)
    server.holds["/a"] = errors.GiveUp("403 Forbidden")
    assert asyncio.run(follower.list()) + asyncio.run(follower.list()) == 2
    assert (server.taken, server.gone) == (["b1", "b1"], [])
    assert [record.getMessage() for record in caplog.records] == ["/a is left out: 403 Forbidden"]


def test_the_silence_of_a_namespace_that_refuses_us_is_no_silence_of_the_others() -> None:
    """Else its administrator could have the operator called deaf, and restarted."""
    server = Namespaces()
    follower = server.follower(A, B)
    follower._heard = {A: 1.0, B: 5.0}
    assert follower.heard == 1.0
    server.holds["/a"] = errors.GiveUp("403 Forbidden")
    asyncio.run(follower.list())
    assert follower.heard == 5.0


def test_an_outage_and_a_single_refusal_are_told() -> None:
    server = Namespaces()
    server.holds["/a"] = errors.GiveUp("403 Forbidden")
    with pytest.raises(errors.GiveUp):
        asyncio.run(server.follower(A).list())
    server.holds["/a"] = errors.Retry("gone")
    with pytest.raises(errors.Retry):
        asyncio.run(server.follower(A, B).list())


async def follow_to_the_end(server: Server) -> tuple[list[str], list[int]]:
    """Return what the sink got and the versions of the LISTs after which something was buried."""
    taken: list[str] = []
    buried: list[int] = []

    def take(kind: str, raw: dict[str, Any]) -> bool:
        if raw["metadata"]["name"] == "poison":
            raise KeyError("spec")
        taken.append(f"{kind} {raw['metadata']['name']}".strip())
        return True

    def bury(listing: Census) -> int:
        buried.append(listing.version)
        return 0

    follower = Follower(server, NODES, take=take, bury=bury)  # type: ignore[arg-type]
    await follower.list()
    with contextlib.suppress(asyncio.CancelledError):
        await follower.run()
    return taken, buried


CASES: dict[str, tuple[list[tuple[list[str], int]], list[Answer], list[str], list[int], list[int]]] = {
    "a stream that ends is taken up at its last event": (
        [(["a"], 5)], [[thing("b", 7)], [thing("c", 9, "ADDED")]], ["a", "MODIFIED b", "ADDED c"], [5, 7, 9], [5],
    ),
    "a bookmark moves the version and is no object": (
        [(["a"], 5)], [[thing("", 30, "BOOKMARK")]], ["a"], [5, 30], [5],
    ),
    "a version that is kept no more means a LIST": (
        [(["a"], 5), (["b"], 50)], [errors.Expired("410"), [thing("c", 51)]], ["a", "b", "MODIFIED c"], [5, 50, 51],
        [5, 50],
    ),
    "an object that cannot be read does not end the watch": (
        [([], 5)], [[thing("poison", 6), thing("b", 7)]], ["MODIFIED b"], [5, 7], [5],
    ),
    "an outage is waited out and nothing is listed again": (
        [(["a"], 5)], [errors.Retry("gone"), [thing("b", 6)]], ["a", "MODIFIED b"], [5, 5, 6], [5],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("lists", "watches", "taken", "asked", "buried"), CASES.values(), ids=CASES)
def test_follower(
    lists: list[tuple[list[str], int]],
    watches: list[Answer],
    taken: list[str],
    asked: list[int],
    buried: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.0)
    server = Server(list(lists), list(watches))
    assert asyncio.run(follow_to_the_end(server)) == (taken, buried)
    assert server.asked == asked
