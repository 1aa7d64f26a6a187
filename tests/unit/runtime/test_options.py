"""The flags of the operator."""

import pytest

from internlm2_operator.plan.topology import RACK
from internlm2_operator.runtime.options import parse


def test_without_flags_nothing_is_added_to_the_rules_and_racks_have_the_usual_label() -> None:
    found = parse(["run"], {})
    assert (found.topology_label, found.log_rules, found.prometheus_match) == (RACK, "", "")


MATCHERS = ['namespace="gpu-operator"', 'job=~"dcgm.*", namespace!="team-\\"a\\""', ""]


@pytest.mark.parametrize("text", MATCHERS, ids=["one", "two, with a quote inside", "none"])
def test_label_matchers(text: str) -> None:
    assert parse(["run", f"--prometheus-match={text}"], {}).prometheus_match == text


WRONG = ["gpu-operator", "{namespace='a'}", 'namespace="a"} or up{job="b"', 'namespace="a",', 'n\u00e4me="a"']


@pytest.mark.parametrize(
    "text", WRONG, ids=["a word", "braces", "another query behind it", "a comma", "no label's name"]
)
def test_what_are_no_label_matchers_is_one_line_and_exit_code_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["run", f"--prometheus-match={text}"], {})
    assert ended.value.code == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith('are no label matchers; write LABEL="VALUE", separated by commas')


def test_namespaces_come_by_flag_or_environment() -> None:
    assert parse(["run"], {}).namespaces == ()
    assert parse(["run"], {"WATCH_NAMESPACES": "b, a,b"}).namespaces == ("b", "a")
    assert parse(["run", "--namespaces=c"], {"WATCH_NAMESPACES": "b"}).namespaces == ("c",)


@pytest.mark.parametrize("text", ["a,,b", "Team", "a/b", "a," + "n" * 64])
def test_what_is_no_namespace_is_one_line_and_exit_code_2(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["run", f"--namespaces={text}"], {})
    assert ended.value.code == 2
    assert "is no namespace; write their names" in capsys.readouterr().err.splitlines()[-1]
