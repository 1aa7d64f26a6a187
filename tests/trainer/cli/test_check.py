"""`check` as a person and as a pod runs it."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from internlm2_operator.manifests.check_pod import check_pod
from internlm2_operator.plan import check as operator_check
from internlm2_spec.contract import ENV_TERMINATION_LOG, ExitCode, FailureClass, Termination
from internlm2_spec.nodecheck import Finding, Part, Report, State, Verdict
from internlm2_trainer import __main__
from internlm2_trainer.cli import check
from tests.servers import free_port

GOOD = Verdict("node-a", State.GOOD, (), dict.fromkeys(Part, 1.0))
BAD = Verdict("b", State.BROKEN, (Finding(Part.INTER_NODE, State.BROKEN, "hung with node-a"),), {Part.COMPUTE: 0.98})
LOST = Verdict("c", State.UNKNOWN, (Finding(Part.COMPUTE, State.UNKNOWN, "it never came to the check"),), {})

# Exit codes of nodes without a fault: how fast a core of a shared machine is just then, no test can know.
MEASURED = {"good": 0, "slow": 76}
COMMAND = [sys.executable, "-m", "internlm2_trainer", "check"]


def test_two_nodes_by_the_real_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    both = [*COMMAND, "--nodes", "2", "--store", f"127.0.0.1:{free_port()}"]
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(tmp_path / "a"))
    first = subprocess.Popen([*both, "--rank", "0", "--name", "a"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    monkeypatch.setenv(ENV_TERMINATION_LOG, str(tmp_path / "b"))
    second = subprocess.run(
        [*both, "--rank", "1", "--name", "b", "-o", "json"], capture_output=True, text=True, timeout=100, check=False
    )
    out, err = first.communicate(timeout=100)

    told = json.loads(second.stdout)
    states = [v["state"] for v in told["verdicts"]]
    assert (told["node"], told["state"], [v["node"] for v in told["verdicts"]]) == ("b", states[1], ["a", "b"])
    assert (first.returncode, second.returncode) == (MEASURED[states[0]], MEASURED[states[1]]), told
    # A node that is slow by itself meets nobody.
    met = states == ["good", "good"]
    parts = {"compute", "memory", "interNode"} if met else {"compute", "memory"}
    assert all(set(v["scores"]) == parts for v in told["verdicts"]), told
    table = [line.split()[:2] for line in out.decode().splitlines() if not line.startswith(" ")]
    assert table == [["NODE", "STATE"], ["a", states[0]], ["b", states[1]]]
    assert ("check: round 1: 1 groups, a+b" in err.decode()) is met
    for name, state in zip("ab", states, strict=True):
        ended = Termination.from_json((tmp_path / name).read_text())
        assert ended is not None
        assert ended.failure is (FailureClass.DONE if state == "good" else FailureClass.INFRASTRUCTURE)


MISTAKES = {
    "no store": (["--nodes", "2"], "--store: missing; name host and port of rank 0, like node-0:29500"),
    "a store without a port": (["--store", "node-0"], "--store: 'node-0' is not HOST:PORT; write it like node-0:29500"),
    "a rank that is none": (["--nodes", "2", "--rank", "2"], "--rank: 2 is none of 2 nodes; use 0 to 1"),
    "no nodes": (["--nodes", "0"], "--nodes: 0 is too few; use 1 or more"),
    "no devices": (["--devices", "0"], "--devices: 0 is too few; use 1 or more"),
    "no time": (["--join-seconds", "0"], "--join-seconds: 0 is no time; use more than 0"),
}


def test_the_operators_pods_start_it_with_words_that_it_takes() -> None:
    members = operator_check.Check(("n1", "n2"), operator_check.Depth.FULL, "x.com/gpu", datetime.now(UTC), "why")
    member = operator_check.MakePod(members, 1, "n2", 8, store="10.0.0.1", domain="leaf")
    (container,) = check_pod(member, namespace="system", image="i")["spec"]["containers"]
    assert container["command"][:4] == ["python", "-m", "internlm2_trainer", "check"]
    options = check._parse(container["command"][4:])
    check._refuse(options)
    assert (options.nodes, options.rank, options.store, options.name) == (2, 1, "10.0.0.1:29400", "n2")
    assert (options.domain, options.depth, options.join_seconds) == ("leaf", "full", 600)


@pytest.mark.parametrize(("arguments", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_code_2(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = __main__.main(["check", *arguments])

    assert (code, *capsys.readouterr()) == (2, "", f"{told}\n")


def test_help_says_what_happens_and_how_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        __main__.main(["check", "--help"])
    out = capsys.readouterr().out
    assert "each of those meets a known-good node" in out
    assert "76 slow or broken" in out


@pytest.mark.parametrize(
    ("own", "code", "reason", "message"),
    [
        (GOOD, ExitCode.DONE, "Completed", ""),
        (BAD, ExitCode.NODE_CHECK, "NodeCheckFailed", "interNode: hung with node-a"),
        (LOST, 1, "NodeCheckUndecided", "compute: it never came to the check"),
    ],
    ids=["good", "broken", "not known"],
)
def test_a_node_ends_by_its_own_verdict(own: Verdict, code: int, reason: str, message: str) -> None:
    end = check.ended(own)
    assert (end.exit_code, end.reason, end.message) == (code, reason, message)


def test_the_table_shows_scores_findings_and_paths() -> None:
    assert check.text(Report((GOOD, BAD, LOST), (("node-a", "d"),))) == [
        "NODE    STATE    COMPUTE  MEMORY  INTRA-NODE  INTER-NODE",
        "node-a  good     1.00     1.00    1.00        1.00",
        "b       broken   0.98     -       -           -",
        "  interNode: hung with node-a",
        "c       unknown  -        -       -           -",
        "  compute: it never came to the check",
        "node-a and d failed together, and are good apart: look between them",
    ]
