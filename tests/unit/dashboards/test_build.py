"""The committed dashboards are what the code says, and each panel says what it is for."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dashboards import __main__ as dashboards
from lab.settings import CHECKOUT

BOARDS: dict[str, dict[str, Any]] = {path: json.loads(text) for path, text in dashboards.generated().items()}
PANELS = {
    f"{board['title']}: {panel['title']}": panel
    for board in BOARDS.values()
    for panel in board["panels"]
    if panel["type"] != "row"
}


def copy(folder: Path) -> Path:
    shutil.copytree(CHECKOUT / dashboards.FOLDER, folder / dashboards.FOLDER)
    (folder / "pyproject.toml").touch()
    return folder


def test_committed_dashboards_are_fresh() -> None:
    assert dashboards.stale(CHECKOUT) == []


def test_an_edited_a_missing_and_a_strange_dashboard_are_stale(tmp_path: Path) -> None:
    top = copy(tmp_path)
    folder = top / dashboards.FOLDER
    (folder / "job.json").write_text((folder / "job.json").read_text().replace("percentunit", "percent"))
    (folder / "fleet.json").unlink()
    (folder / "other.json").write_text("{}")
    assert [Path(path).name for path in dashboards.stale(top)] == ["fleet.json", "job.json", "other.json"]
    assert dashboards.main(["--root", str(top), "--check"]) == 1
    (folder / "other.json").unlink()
    assert dashboards.main(["--root", str(top)]) == 0
    assert dashboards.main(["--root", str(top), "--check"]) == 0


def test_a_root_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dashboards.main(["--root", str(tmp_path)]) == 2
    assert "pass the root of the repository" in capsys.readouterr().err


@pytest.mark.parametrize("panel", PANELS.values(), ids=PANELS)
def test_a_panel_tells_its_question_its_unit_and_what_no_data_mean(panel: dict[str, Any]) -> None:
    field = panel["fieldConfig"]["defaults"]
    assert "?" in panel["description"]
    assert field["unit"]
    assert field["noValue"]
    assert field["thresholds"]["steps"][0]["value"] is None
    values = [step["value"] for step in field["thresholds"]["steps"][1:]]
    assert values == sorted(values)
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_dashboard_has_its_variables_and_no_two_panels_in_one_place(board: dict[str, Any]) -> None:
    names = [variable["name"] for variable in board["templating"]["list"]]
    assert names[:2] == ["datasource", "namespace"]
    assert names[2:] == ([] if board["uid"] == "internlm2-operator" else ["job"])
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


def test_a_column_of_a_table_has_its_own_unit_and_only_the_first_its_words() -> None:
    table = PANELS["InternLM2 / Fleet: All jobs"]
    overrides = {o["matcher"]["options"]: {p["id"]: p["value"] for p in o["properties"]}
                 for o in table["fieldConfig"]["overrides"]}  # fmt: skip
    assert overrides["MFU"] == {"unit": "percentunit", "decimals": 1}
    assert overrides["Phase"]["mappings"][0]["options"]["4"]["text"] == "Running"
    assert "mappings" not in table["fieldConfig"]["defaults"]
