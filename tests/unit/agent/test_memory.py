"""What survives a restart of the agent."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from internlm2_operator.agent.memory import Memory, recall, save
from internlm2_operator.health.condition import Kept, event

NOW = datetime(2026, 11, 26, 10, 0, 0, 123000, tzinfo=UTC)
SOME = Memory("b1", 7, Kept((event("Xid79", "0000:3b:00", NOW, "x"),), 3), (event("LinkDown", "eth0", NOW),))


def test_all_of_it_comes_back(tmp_path: Path) -> None:
    save(tmp_path / "new" / "state.json", SOME)
    assert recall(tmp_path / "new" / "state.json", "b1") == SOME
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["state.json"]


def test_another_boot_begins_anew(tmp_path: Path) -> None:
    save(tmp_path / "state.json", SOME)
    assert recall(tmp_path / "state.json", "b2") == Memory("b2")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"boot": "b1"}', '{"boot": "b1", "sequence": "x", "events": []}']
)
def test_a_broken_file_is_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    assert recall(tmp_path / "state.json", "b1") == Memory("b1")
