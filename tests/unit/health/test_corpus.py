"""The replay corpus keeps to its README: shape, names, counts, and the whole XID table."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from internlm2_operator.health.xid import TABLE

FOLDER: Final = Path(__file__).parents[2] / "data" / "faults"
README: Final = (FOLDER / "README.md").read_text()
Case = dict[str, Any]
CORPUS: Final[dict[str, Case]] = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}

CLASSES: Final = {"user", "node", "fabric", "unknown", "none"}
CORDONS: Final = {"cordon", "cordon-reset", "cordon-reboot", "cordon-replace"}
ACTIONS: Final = CORDONS | {"none", "restart", "fail", "check", "drain", "wait"}
PHASES: Final = {"init", "compile", "step", "evaluation", "checkpoint"}
RULES: Final = set(re.findall(r"^\| `([a-z-]+)` \|", README.split("## The rules")[1], re.MULTILINE))
# By kind: the fields that a signal must have, and those it may have, beside `t` and `kind`.
FIELDS: Final[dict[str, tuple[set[str], set[str]]]] = {
    "kernel_log": ({"node", "line"}, {"facility"}),
    "metric": ({"node", "name", "value"}, {"gpu", "labels"}),
    "node_condition": ({"node", "type", "status"}, {"reason", "message"}),
    "pod_exit": ({"node", "code"}, {"rank", "slot", "reason", "termination"}),
    "rank_log": ({"node", "rank", "line"}, set()),
    "progress": ({"node", "phase", "step"}, {"rank", "stalledSeconds"}),
    "prometheus_down": (set(), {"node"}),
}
JOB_FIELDS: Final = {"name", "topology", "otherJobs", "mode", "minNodes", "spares"}
XID_LINE: Final = re.compile(r"^NVRM: Xid \(PCI:[0-9a-fA-F:.]+\): (\d+),")


def complaints(name: str, case: Case) -> list[str]:
    """Return what is wrong with one case, nothing for a good one."""
    if extra := {"id", "source", "story", "job", "signals", "expect"} ^ (set(case) - {"tags", "mode"}):
        return [f"case: {sorted(extra)} missing or unknown"]
    found = [] if case["id"] == name else [f"id: {case['id']} is not the file's name"]
    found += [f"{field}: empty" for field in ("source", "story", "signals") if not case[field]]
    found += [f"job: {field} unknown" for field in set(case["job"]) - {"nodes", "gpusPerNode"} - JOB_FIELDS]
    times = [signal["t"] for signal in case["signals"]]
    found += [] if times == sorted(times) else ["signals: not in order of t"]
    for signal in case["signals"]:
        found += _signal(signal, _nodes(case["job"]))
    return found + _expectation(case)


def _nodes(job: Case) -> set[str]:
    return {node for one in (job, *job.get("otherJobs", ())) for node in one["nodes"]}


def _signal(signal: Case, nodes: set[str]) -> list[str]:
    if signal["kind"] not in FIELDS:
        return [f"kind: {signal['kind']} unknown"]
    must, may = FIELDS[signal["kind"]]
    have = set(signal) - {"t", "kind"}
    found = [f"{signal['kind']}: {field} missing or unknown" for field in (must - have) | (have - must - may)]
    if "node" in signal and signal["node"] not in nodes:
        found.append(f"{signal['kind']}: node {signal['node']} belongs to no job")
    if signal["kind"] == "progress" and signal["phase"] not in PHASES:
        found.append(f"progress: phase {signal['phase']} unknown")
    return found


def _expectation(case: Case) -> list[str]:
    want = case["expect"]
    if extra := {"class", "node", "gpu", "cordon", "action", "why"} ^ (set(want) - {"cordons"}):
        return [f"expect: {sorted(extra)} missing or unknown"]
    kept = {"observe", "minimum"} & set(case.get("tags", ()))
    # A suspicion is tested; what a GPU contained is the node's own, and over with the process.
    spared = want["action"] in ("check", "restart")
    checks = {
        f"class: {want['class']} unknown": want["class"] in CLASSES,
        f"action: {want['action']} unknown": want["action"] in ACTIONS,
        "cordon: only a node at fault is cordoned": not want["cordon"] or want["class"] == "node",
        "cordon: a node at fault is, unless its tag says why not": want["class"] != "node"
        or want["cordon"]
        or kept
        or spared,
        "action: does not fit cordon": (want["action"] in CORDONS) == want["cordon"] or kept,
        "node: missing or unknown": want["node"]
        in _nodes(case["job"]) | ({None} if want["class"] != "node" else set()),
        "gpu: without a node": want["gpu"] is None or want["node"] is not None,
        "gpu: named by no signal": want["gpu"] is None or _names(case, want["gpu"]),
        f"why: begins with no rule: {want['why']}": want["why"].partition(": ")[0] in RULES,
        "cordons: unlike node and cordon": want["cordon"] == (want["node"] in want.get("cordons", [want["node"]]))
        or "cordons" not in want,
    }
    return [complaint for complaint, good in checks.items() if not good]


def _names(case: Case, gpu: str) -> bool:
    return any(gpu in json.dumps(signal) for signal in case["signals"] if signal.get("node") == case["expect"]["node"])


@pytest.mark.parametrize("name", CORPUS)
def test_case_keeps_to_the_readme(name: str) -> None:
    assert complaints(name, CORPUS[name]) == []


def _set(*path: str | int, value: Any) -> Callable[[Case], None]:
    def change(case: Case) -> None:
        place: Any = case
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

    return change


BROKEN: Final = {
    "a field is unknown": _set("note", value="x"),
    "the id is another's": _set("id", value="other"),
    "no source": _set("source", value=""),
    "a kind is unknown": _set("signals", 0, "kind", value="smoke"),
    "a signal lacks a field": lambda case: case["signals"][0].pop("line"),
    "a signal has a foreign field": _set("signals", 0, "rank", value=1),
    "a node belongs to no job": _set("signals", 0, "node", value="n9"),
    "time goes back": _set("signals", 0, "t", value=1e9),
    "the class is unknown": _set("expect", "class", value="hardware"),
    "the action is unknown": _set("expect", "action", value="reboot"),
    "a user's fault is cordoned": _set("expect", "class", value="user"),
    "a node at fault is not cordoned": _set("expect", "cordon", value=False),
    "the GPU is in no signal": _set("expect", "gpu", value="GPU-0"),
    "the reason is no rule": _set("expect", "why", value="it is so"),
    "the cordoned node is not among the cordons": _set("expect", "cordons", value=["n1"]),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_a_broken_case_is_found(change: Callable[[Case], None]) -> None:
    case = copy.deepcopy(CORPUS["xid48-with-63"])
    change(case)
    assert complaints("xid48-with-63", case) != []


def test_there_are_enough_cases_of_each_sort() -> None:
    kept = [name for name, case in CORPUS.items() if not case["expect"]["cordon"]]
    hidden = [name for name, case in CORPUS.items() if "hidden" in case.get("tags", ())]
    assert (len(CORPUS) >= 100, len(kept) >= 30, len(hidden) >= 20) == (True, True, True)


def test_every_code_of_the_xid_table_occurs_in_a_kernel_line() -> None:
    lines = [s["line"] for case in CORPUS.values() for s in case["signals"] if s["kind"] == "kernel_log"]
    assert set(TABLE) - {int(found[1]) for line in lines if (found := XID_LINE.match(line))} == set()


VALUES: Final = {"classes": CLASSES, "actions": ACTIONS, "phases": PHASES, "kinds": set(FIELDS), "job": JOB_FIELDS}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_the_readme_names_every_value(values: set[str]) -> None:
    assert {value for value in values if f"`{value}`" not in README} == set()


@pytest.mark.parametrize("rule", sorted(RULES))
def test_every_rule_decides_a_case(rule: str) -> None:
    assert any(case["expect"]["why"].startswith(f"{rule}: ") for case in CORPUS.values())
