"""Real nodes of a check, each a process of its own with a process for its device, over gloo."""

import multiprocessing.connection
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from internlm2_spec.nodecheck import Ended, Part, Report, State
from internlm2_trainer.check.node import Member, StoreLost, Times, meeting, take_part
from internlm2_trainer.check.work import CPU, Sizes, Work
from tests import ranks
from tests.servers import free_port

NODES = 4
PAIR_SECONDS = 5.0
TIMES = Times(join=60.0, local=60.0, pair=PAIR_SECONDS)
SMALL = replace(CPU["quick"], matrix=256, memory_bytes=2**20, message_bytes=2**18, messages=60)


class Sound(Work):
    """A small device without a fault. Its clock goes by what it did: how fast a core here is just then, is no fault."""

    def __init__(self, device: torch.device, _: Sizes) -> None:
        super().__init__(device, SMALL)
        self.did = 0

    def device_seconds(self, work: Callable[[], object]) -> float:
        before = self.did
        work()
        return (self.did - before) / 1e3

    wall_seconds = device_seconds

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        self.did += 1
        return super().multiply(a, b)

    def write(self, block: Tensor, place: int, pattern: int | None) -> None:
        self.did += 1
        super().write(block, place, pattern)

    def reduce(self, message: Tensor) -> None:
        self.did += 1
        super().reduce(message)


class SlowCompute(Sound):
    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        for _ in range(5):
            super().multiply(a, b)
        return super().multiply(a, b)


class Miscalculates(Sound):
    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        product = super().multiply(a, b)
        product[3, 5] += torch.rand(())
        return product


class CorruptMemory(Sound):
    """Bit 7 of one byte is stuck at zero: patterns that have it clear anyway come back whole."""

    def write(self, block: Tensor, place: int, pattern: int | None) -> None:
        super().write(block, place, pattern)
        block.view(torch.uint8)[1000] &= 0x7F


class SlowLink(Sound):
    def reduce(self, message: Tensor) -> None:
        self.did += 20
        super().reduce(message)


class WrongSums(Sound):
    def reduce(self, message: Tensor) -> None:
        super().reduce(message)
        message[7] += 1


class HangsWithOthers(Sound):
    def reduce(self, message: Tensor) -> None:  # noqa: ARG002
        time.sleep(600)


class DiesWithOthers(Sound):
    def reduce(self, message: Tensor) -> None:  # noqa: ARG002
        os._exit(9)


class TakesItsNodeDown(Sound):
    """The process that speaks for the node is gone, too: its power, say."""

    def reduce(self, message: Tensor) -> None:  # noqa: ARG002
        server = Path(f"/proc/{os.getppid()}/stat").read_text()
        os.kill(int(server.rpartition(")")[2].split()[1]), signal.SIGKILL)
        time.sleep(600)


FAULTS = {
    "slow compute": (SlowCompute, Part.COMPUTE, State.SLOW, "of the nodes' median"),
    "miscalculates": (Miscalculates, Part.COMPUTE, State.BROKEN, "the same product came out different"),
    "corrupt memory": (CorruptMemory, Part.MEMORY, State.BROKEN, "2 bytes came back other than they were written"),
    "slow link": (SlowLink, Part.INTER_NODE, State.SLOW, "which is good; the pairs' median is"),
    "wrong sums": (WrongSums, Part.INTER_NODE, State.BROKEN, "an all-reduce came to a wrong sum"),
    "hangs": (HangsWithOthers, Part.INTER_NODE, State.BROKEN, f"was not done after {PAIR_SECONDS:g} s"),
    "dies": (DiesWithOthers, Part.INTER_NODE, State.BROKEN, "its process ended with 9"),
}


def run_nodes(works: list[type[Work]], *, devices: int = 1, names: str = "node-{}") -> list[Report]:
    """Check nodes with these devices and return the report that each got."""
    store = f"127.0.0.1:{free_port()}"
    members = [Member(rank, len(works), names.format(rank), "", store, TIMES) for rank in range(len(works))]
    return [Report.from_json(told) for told in run_members(members, works, devices=devices)]


def run_members(members: list[Member], works: list[type[Work]], *, devices: int = 1) -> list[str]:
    """Return what each member told in the end: its report, or that it found no store."""
    context, started = ranks.context(), []
    for member, work in zip(members, works, strict=True):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_node, args=(sender, member, devices, work), daemon=True)
        process.start()
        sender.close()
        started.append((process, receiver))
    try:
        return [_received(receiver) for _, receiver in started]
    finally:
        for process, receiver in started:
            process.kill()
            process.join()
            process.close()
            receiver.close()


def _received(receiver: multiprocessing.connection.Connection) -> str:
    try:
        return str(receiver.recv())
    except EOFError:
        return "died"


def _node(
    sender: multiprocessing.connection.Connection, member: Member, devices: int, make_work: type[Work]
) -> None:  # fmt: skip
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        told = take_part(member, depth="quick", devices=devices, make_work=make_work).to_json()
    except StoreLost as error:
        told = str(error)
    sender.send(told)
    sender.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_one_node_with_a_fault_is_named_and_its_partner_is_not(fault: str) -> None:
    work, part, state, said = FAULTS[fault]
    works: list[type[Work]] = [Sound] * NODES
    bad = list(FAULTS).index(fault) % NODES  # so that each place, the leader's too, is a bad one once
    works[bad] = work

    report, *others = run_nodes(works)

    assert [v.node for v in report.verdicts if v.state is not State.GOOD] == [f"node-{bad}"]
    assert [(f.part, f.state) for f in report.verdicts[bad].findings] == [(part, state)]
    assert said in report.verdicts[bad].findings[0].what
    assert others == [report] * (NODES - 1)


def test_a_node_that_is_gone_is_named_by_those_who_are_left() -> None:
    times, store = replace(TIMES, pair=3.0), f"127.0.0.1:{free_port()}"
    members = [Member(rank, NODES, f"node-{rank}", "", store, times) for rank in range(NODES)]
    works: list[type[Work]] = [Sound, Sound, Sound, TakesItsNodeDown]

    told = run_members(members, works)

    assert told[3] == "died"
    assert told[0] == told[1] == told[2]
    report = Report.from_json(told[0])
    assert [v.node for v in report.verdicts if v.state is not State.GOOD] == ["node-3"]
    assert report.verdicts[3].findings[0].what.endswith("which is good: a node said nothing")


def test_without_a_fault_nobody_is_named_and_every_part_is_measured() -> None:
    report, *_ = run_nodes([Sound] * 3, devices=2, names="same")

    assert [(v.node, v.state) for v in report.verdicts] == [
        ("same", State.GOOD), ("same (rank 1)", State.GOOD), ("same (rank 2)", State.GOOD),
    ]  # fmt: skip
    assert [set(v.scores) for v in report.verdicts] == [set(Part)] * 3
    assert report.paths == ()


def test_a_node_that_never_comes_is_not_known_and_the_others_go_on() -> None:
    member = Member(0, 2, "a", "", f"127.0.0.1:{free_port()}", replace(TIMES, join=0.5))

    (told,) = run_members([member], [Sound])

    present, absent = Report.from_json(told).verdicts
    assert [(v.node, v.state) for v in (present, absent)] == [("a", State.GOOD), ("rank 1", State.UNKNOWN)]
    assert absent.findings[0].what == "it never came to the check"


def test_without_rank_0_there_is_no_check() -> None:
    member = Member(1, 2, "b", "", f"127.0.0.1:{free_port()}", replace(TIMES, join=0.5))

    (told,) = run_members([member], [Sound])

    assert told.startswith(f"{member.store}: ")


@pytest.mark.parametrize(
    ("told", "ended", "bus", "why"),
    [
        ([("ok", 3.0, ""), ("ok", 2.0, "")], Ended.OK, 2.0, ""),
        ([("hung", None, "device 0 was not done"), ("ok", 2.0, "")], Ended.HUNG, None, "device 0 was not done"),
        ([("hung", None, "waited"), ("failed", None, "wrong sum")], Ended.FAILED, None, "wrong sum"),
        ([("lost", None, "lost the others"), ("hung", None, "waited")], Ended.HUNG, None, "waited"),
    ],
    ids=["the slower of two", "one hung", "an error says more than a wait", "a wait more than a lost peer"],
)
def test_a_meeting_is_what_its_members_tell(
    told: list[tuple[str, float | None, str]], ended: Ended, bus: float | None, why: str
) -> None:
    met = meeting(("a", "b"), told)
    assert (met.ended, met.bus, met.why) == (ended, bus, why)
