"""The devices of this node: a process each, given a task together and a time in which to end."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from internlm2_spec.nodecheck import Ended, Failure, Local, Part
from internlm2_trainer.check.device import Task
from internlm2_trainer.pod import forks

LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task on all devices: what each told, or why one did not."""

    ended: Ended
    told: tuple[dict[str, Any], ...] = ()
    why: str = ""

    @property
    def bus(self) -> float | None:
        """The bandwidth that the slowest device saw."""
        return min(float(each["bus"]) for each in self.told) if self.told else None


@dataclass(frozen=True, slots=True)
class Crew:
    """`devices` of this node, at depth `quick` or `full`; `folder` is for what their processes leave."""

    server: forks.Server
    folder: Path
    devices: int
    depth: str

    def alone(self, node: str, seconds: float) -> Local:
        """Measure every device by itself, all at once as in training, then all of them with each other."""
        outcome = self._run([Task(i, self.depth, "") for i in range(self.devices)], seconds)
        if outcome.ended is not Ended.OK:
            return Local(node, failures=(Failure(Part.COMPUTE, outcome.ended, outcome.why),))
        told = outcome.told
        local = Local(
            node, device=str(told[0]["device"]), compute=min(float(each["compute"]) for each in told),
            memory=min(float(each["memory"]) for each in told),
            wrong_bytes=sum(int(each["wrong_bytes"]) for each in told),
        )  # fmt: skip
        if self.devices == 1:
            return local
        among = self._run(self._group(str(self.folder / "among"), "among", seconds=seconds), seconds)
        if among.ended is not Ended.OK:
            return replace(local, failures=(Failure(Part.INTRA_NODE, among.ended, among.why),))
        return replace(local, intra_node=among.bus)

    def meet(self, store: str, prefix: str, *, place: int, members: int, seconds: float) -> Outcome:
        """All-reduce with the devices of other nodes: this one is number `place` of `members`."""
        return self._run(self._group(store, prefix, place=place, members=members, seconds=seconds), seconds)

    def _group(self, store: str, prefix: str, *, place: int = 0, members: int = 1, seconds: float) -> list[Task]:
        world = members * self.devices
        return [
            Task(i, self.depth, "", place * self.devices + i, world, store, prefix, seconds)
            for i in range(self.devices)
        ]

    def _run(self, tasks: Sequence[Task], seconds: float) -> Outcome:
        """Give each device its task; who is not done after `seconds` is killed, and the others with it."""
        deadline = time.monotonic() + seconds
        places = [self.folder / f"{time.monotonic_ns()}-{task.device}.json" for task in tasks]
        processes = [
            self.server.fork(dict(os.environ), [replace(task, result=str(place)).to_json()])
            for task, place in zip(tasks, places, strict=True)
        ]
        while time.monotonic() < deadline and any(each.is_alive() for each in processes):
            time.sleep(LOOK_SECONDS)
        hung = [task.device for task, each in zip(tasks, processes, strict=True) if each.is_alive()]
        for each in processes:
            each.kill()
            each.join(seconds)
        return _outcome(places, hung, [each.exitcode for each in processes], seconds)


def _outcome(places: Sequence[Path], hung: Sequence[int], codes: Sequence[int | None], seconds: float) -> Outcome:
    told = [json.loads(place.read_text()) if place.exists() else {} for place in places]
    for device, (each, code) in enumerate(zip(told, codes, strict=True)):
        if "error" in each:
            return Outcome(Ended.FAILED, why=f"device {device}: {each['error']}")
        if not each and device not in hung:
            return Outcome(Ended.FAILED, why=f"device {device}: its process ended with {code}")
    if hung:
        return Outcome(Ended.HUNG, why=f"device {', '.join(map(str, hung))} was not done after {seconds:g} s")
    for device, each in enumerate(told):
        if "lost" in each:
            return Outcome(Ended.LOST, why=f"device {device}: {each['lost']}")
    return Outcome(Ended.OK, tuple(told))
