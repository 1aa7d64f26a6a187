"""A file that is no case is refused by its name and field."""

import json
from pathlib import Path
from typing import Any

import pytest

from internlm2_operator.replay.case import case, read
from internlm2_spec.config import Refused

GOOD: dict[str, Any] = {
    "id": "x",
    "job": {"nodes": ["n1"]},
    "signals": [{"t": 0, "node": "n1", "kind": "metric", "name": "M", "value": 1, "UUID": "GPU-1"}],
    "expect": {"class": "none", "node": None, "cordon": False},
}
WRONG: dict[str, tuple[Any, str]] = {
    "no object": ([], "job: list; give a dict"),
    "no nodes": (GOOD | {"job": {}}, "nodes: None; give a list"),
    "no signals": (GOOD | {"signals": None}, "signals: None; give a list"),
    "no time": (GOOD | {"signals": [{"kind": "metric"}]}, "signals[0].t: "),
    "another kind": (GOOD | {"signals": [{"t": 0, "kind": "rumour"}]}, "signals[0].kind: 'rumour'; use one of kernel"),
    "another class": (
        GOOD | {"expect": {"class": "gremlins", "cordon": False}},
        "expect.class: 'gremlins'; use",
    ),
    "no decision": (GOOD | {"expect": {"class": "none"}}, "expect.cordon: None; use true or false"),
}


@pytest.mark.parametrize(("raw", "told"), WRONG.values(), ids=WRONG.keys())
def test_refused(raw: Any, told: str, tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    path.write_text(json.dumps(raw))
    with pytest.raises(Refused) as refused:
        read(tmp_path)
    assert str(refused.value).startswith(f"{path}: {told}")


def test_no_json_and_no_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="no case is there"):
        read(tmp_path)
    with pytest.raises(Refused, match="no case is there"):
        read(tmp_path / "absent")
    (tmp_path / "case.json").write_text("{")
    with pytest.raises(Refused, match="no JSON"):
        read(tmp_path)


TEXTS = {
    "the trainer's object as the kubelet hands it on": (
        '{"class": "user", "reason": "ConfigRefused", "exit_code": 64, "message": "no"}', "ConfigRefused", ""
    ),
    "the kubelet's own words": ("Usage of EmptyDir volume \"x\" exceeds the limit", None, "Usage of EmptyDir"),
    "JSON that is no object": ("[1]", None, "[1]"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "reason", "message"), TEXTS.values(), ids=TEXTS)
def test_what_a_pod_left_may_be_any_text(text: str, reason: str | None, message: str) -> None:
    end = {"t": 0, "node": "n1", "kind": "pod_exit", "code": 1, "termination": text}
    fields = case(GOOD | {"signals": [end]}).seen[0].fields
    assert (fields["termination"] or {}).get("reason") == reason
    assert str(fields.get("message", "")).startswith(message)


def test_a_log_may_be_a_list_and_a_topology_the_nodes_of_each_switch() -> None:
    said = {"t": 0, "node": "n1", "kind": "rank_log", "rank": 0, "lines": ["one", "two"]}
    job = {"nodes": ["n1", "n2"], "topology": {"leaf-1": ["n1"], "n2": "leaf-2"}}
    one = case(GOOD | {"job": job, "signals": [said]})
    assert one.seen[0].fields["line"] == "one\ntwo"
    assert one.domains == {"n1": "leaf-1", "n2": "leaf-2"}


def test_fields_may_have_the_names_that_other_recorders_give_them(tmp_path: Path) -> None:
    (tmp_path / "case.json").write_text(json.dumps(GOOD))
    (one,) = read(tmp_path)
    assert one.seen[0].fields["gpu"] == "GPU-1"
    assert (one.nodes, one.job_of("n1"), one.job_of("n2")) == (("n1",), "job", "")
