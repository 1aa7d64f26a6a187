"""Who counts as a member and who as waiting, with real handlers on one store."""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from torch.distributed.elastic.rendezvous import RendezvousClosedError, RendezvousGracefulExitError, RendezvousInfo
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

from internlm2_trainer.pod.rendezvous import Rendezvous


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@dataclass
class Meeting:
    """Two members that have met, and a spare that waits."""

    host: Rendezvous
    member: Rendezvous
    spare: Rendezvous
    met: list[RendezvousInfo]
    waiting: Future[RendezvousInfo]


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Meeting]:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    host, member, spare = (
        Rendezvous.connect(
            "127.0.0.1", port, name="test", nodes=2, local_addr=f"127.0.0.{place}", is_host=place == 1, spare=place == 3
        )
        for place in (1, 2, 3)
    )
    with ThreadPoolExecutor(3) as pool:
        waiting = pool.submit(spare.handler.next_rendezvous)  # there first
        met = [each.result() for each in [pool.submit(r.handler.next_rendezvous) for r in (host, member)]]
        yield Meeting(host, member, spare, met, waiting)
        host.close(0)
        with contextlib.suppress(RendezvousGracefulExitError, RendezvousClosedError):
            waiting.result()
        member.handler.shutdown()


def test_members_meet_in_the_order_of_their_names_though_the_spare_was_there_first(meeting: Meeting) -> None:
    assert [(info.rank, info.world_size) for info in meeting.met] == [(0, 2), (1, 2)]
    assert not meeting.waiting.done()


def test_a_member_that_gives_up_is_gone_at_once_and_a_spare_counts_only_then(meeting: Meeting) -> None:
    host = meeting.host.handler
    until(lambda: meeting.spare.handler._state_holder.state.redundancy_list != set())
    assert host.num_nodes_waiting() == 0
    meeting.member.handler.leave()
    assert len(meeting.member.handler._state_holder.state.participants) == 1, (
        "in the store, before any heartbeat could be missed"
    )
    until(lambda: host.num_nodes_waiting() == 1)


def test_a_meeting_of_fewer_than_all_is_left_and_held_again(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a jump of the clock, which makes the others' heartbeats look old."""
    whole = meeting.met[0]
    assert whole.bootstrap_store_info is not None
    alone = RendezvousInfo(whole.store, 0, 1, whole.bootstrap_store_info)
    answers = [alone, alone, whole]
    monkeypatch.setattr(DynamicRendezvousHandler, "next_rendezvous", lambda _: answers.pop(0))
    assert meeting.member.handler.next_rendezvous() is whole
    assert answers == []
    assert len(meeting.member.handler._state_holder.state.participants) == 1, "it gave up its place"
