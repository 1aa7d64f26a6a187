"""Steps are read out of the kubelets' files once, whole lines only, also from a file that began anew."""

import json
from pathlib import Path

from lab.chaos.logs import LogWatch


def line(step: int) -> str:
    return f"2026-11-26T10:00:00Z stdout F {json.dumps({'step': step, 'lossHex': '0x1p0', 'time': 1.0 * step})}\n"


def test_whole_lines_are_taken_up_once(tmp_path: Path) -> None:
    file = tmp_path / "n1" / "pod-logs" / "default_chaos-0-0-1_uid" / "trainer" / "0.log"
    file.parent.mkdir(parents=True)
    file.write_text(line(1) + line(2)[:40])
    logs = LogWatch(tmp_path, "chaos")
    logs.look()
    assert [step.step for step in logs.steps] == [1]
    assert {step.pod for step in logs.steps} == {"chaos-0-0-1"}

    with file.open("a") as more:
        more.write(line(2)[40:] + "no step\n" + line(3))
    logs.look()
    assert sorted(step.step for step in logs.steps) == [1, 2, 3]

    file.write_text(line(4))
    logs.look()
    assert sorted(step.step for step in logs.steps) == [1, 2, 3, 4]


def test_other_jobs_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "n1" / "pod-logs" / "default_calm-0-0-1_uid" / "trainer" / "0.log"
    file.parent.mkdir(parents=True)
    file.write_text(line(1))
    logs = LogWatch(tmp_path, "chaos")
    logs.look()
    assert logs.steps == set()
