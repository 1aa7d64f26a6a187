"""Finding the rule of a line, and reading the rules that a cluster adds."""

import json
import textwrap
from typing import Any

import pytest
import yaml

from internlm2_operator.health.logrules import LogRule, Weight
from internlm2_operator.health.rulebook import MAX_LINE, MAX_PATTERN, MAX_RULES, Rulebook, clean, parse
from internlm2_operator.health.verdict import Blame
from internlm2_spec.config import Refused
from lab.settings import CHECKOUT

ROW: dict[str, Any] = {
    "name": "feeder-stopped",
    "pattern": r"feeder \w+ stopped",
    "blame": "unknown",
    "cause": "FeederStopped",
    "weight": "cause",
    "source": "our feeder",
}


def rows(**changed: object) -> str:
    """Return the text of one rule with changed fields; None leaves a field out."""
    row = {key: value for key, value in (ROW | changed).items() if value is not None}
    return json.dumps({"rules": [row]})


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump], ids=["JSON", "YAML"])
def test_further_rule_is_read_from_json_and_yaml(write: Any) -> None:
    rule = LogRule("feeder-stopped", r"feeder \w+ stopped", Blame.UNKNOWN, "FeederStopped", Weight.CAUSE, "our feeder")
    assert parse(write({"rules": [ROW]}), path="log-rules") == (rule,)


def test_source_of_a_further_rule_is_its_text_unless_it_says_so() -> None:
    assert parse(rows(source=None), path="log-rules")[0].source == "log-rules"


def test_further_rule_speaks_where_the_table_is_silent() -> None:
    book = Rulebook(parse(rows(), path="log-rules"))
    assert Rulebook().hit("RuntimeError: feeder a stopped") is not book.hit("RuntimeError: feeder a stopped")
    hit = book.hit("RuntimeError: feeder a stopped")
    assert hit is not None
    assert hit.name == "feeder-stopped"


def test_further_rule_never_makes_a_cause_of_a_symptom() -> None:
    book = Rulebook(parse(rows(pattern="Connection reset by peer"), path="log-rules"))
    hit = book.hit("RuntimeError: Connection reset by peer")
    assert hit is not None
    assert hit.weight is Weight.SYMPTOM


REFUSED = {
    "no YAML": ("rules: [", "log-rules: is neither YAML nor JSON"),
    "a list": ("[]", "log-rules: is not an object with the one field `rules`"),
    "another field": ('{"rules": [], "rule": 1}', "log-rules: is not an object with the one field `rules`"),
    "a word": ('{"rules": ["x"]}', "log-rules: rules[0]: is no object"),
    "an unknown field": (rows(level=1), "log-rules: rules[feeder-stopped].level: is not known; use name, pattern"),
    "no pattern": (rows(pattern=None), "log-rules: rules[feeder-stopped].pattern: is missing"),
    "no name": (rows(name=None), "log-rules: rules[0].name: is missing"),
    "a bad name": (rows(name="Feeder Stopped"), "log-rules: rules[0].name: 'Feeder Stopped' is not right"),
    "a name of the table": (rows(name="disk-full"), "log-rules: rules[disk-full].name: is taken already"),
    "a number": (rows(pattern=3), "log-rules: rules[feeder-stopped].pattern: is of type int"),
    "an empty pattern": (rows(pattern=""), "log-rules: rules[feeder-stopped].pattern: has 0 characters"),
    "a long pattern": (rows(pattern="a" * (MAX_PATTERN + 1)), f"pattern: has {MAX_PATTERN + 1} characters"),
    "no expression": (rows(pattern="(a"), "rules[feeder-stopped].pattern: unclosed group; correct it"),
    "look-ahead": (rows(pattern="a(?=b)"), "pattern: look-around, including look-ahead and look-behind, is not"),
    "a back-reference": (rows(pattern=r"(a)\1"), "pattern: backreferences are not supported"),
    "a huge expression": (
        rows(pattern=r"\w{1,100}-\w{1,100}-\w{1,100}x"),
        "pattern: Compiled regex exceeds size limit",
    ),
    "a counted group": (
        rows(pattern="(?:(?:a{1,50}){1,50}){1,30}!"),
        "pattern: counts a group, or too far; count single",
    ),
    "a count that is too far": (rows(pattern="xa{7,101}"), "pattern: counts a group, or too far; count single"),
    "a pattern for every line": (rows(pattern="x*"), "pattern: fits an empty line, and so any"),
    "a blame that is none": (rows(blame="admin"), "blame: 'admin' is not right; use one of user, node, fabric"),
    "a weight that is none": (rows(weight="heavy"), "weight: 'heavy' is not right; use one of cause, symptom"),
    "a cause in words": (rows(cause="feeder stopped"), "cause: 'feeder stopped' is not right; use CamelCase"),
}


@pytest.mark.parametrize(("text", "words"), REFUSED.values(), ids=REFUSED)
def test_refusal_names_rule_and_field_in_one_line(text: str, words: str) -> None:
    with pytest.raises(Refused) as refused:
        parse(text, path="log-rules")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_same_name_twice_and_too_many_rules_are_refused() -> None:
    with pytest.raises(Refused, match=r"rules\[feeder-stopped\].name: is taken already"):
        parse(json.dumps({"rules": [ROW, ROW]}), path="log-rules")
    with pytest.raises(Refused, match=f"{MAX_RULES + 1} rules; write {MAX_RULES} at most"):
        parse(json.dumps({"rules": [ROW] * (MAX_RULES + 1)}), path="log-rules")


def test_rules_that_are_too_large_together_are_refused() -> None:
    large = [ROW | {"name": f"rule-{i}", "pattern": rf"x{i}\w{{1,90}}y"} for i in range(4)]
    assert parse(json.dumps({"rules": large[:1]}), path="log-rules")
    with pytest.raises(Refused, match="log-rules: rules: are too large together"):
        parse(json.dumps({"rules": large}), path="log-rules")


def test_aliases_that_multiply_are_refused_unread() -> None:
    """Nine levels of nine aliases each would be 3 GiB if anybody wrote them out."""
    levels = ['a0: &a0 ["x"]'] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    text = "\n".join(["rules:", "- name: bomb", "  pattern: &p", *(f"    {level}" for level in levels)])
    with pytest.raises(Refused, match=r"rules\[bomb\]"):
        parse(text, path="log-rules")


def test_nested_repetition_costs_no_more_than_the_line() -> None:
    """On a backtracking engine this pattern would need 2 to the power of 2,000 steps, and this test would not end."""
    book = Rulebook(parse(rows(pattern="(?:a+)+$"), path="log-rules"))
    assert book.hit("a" * (MAX_LINE - 1) + "!") is None
    assert book.hit("!" + "a" * (MAX_LINE - 1)) is not None


CLEAN = {
    "colours go": ("\x1b[31mValueError: x\x1b[0m", "ValueError: x"),
    "a launcher's prefix goes": ("[default3]:[rank3]: ValueError: x", "ValueError: x"),
    "so does srun's": ("12: ValueError: x", "ValueError: x"),
    "and both": ("12: [rank3]: ValueError: x", "ValueError: x"),
    "a number that is no prefix stays": ("12 steps: ValueError", "12 steps: ValueError"),
    "a bracket that is no prefix stays": ("[Errno 28] No space left", "[Errno 28] No space left"),
    "indentation stays": ('[rank3]:   File "a.py", line 1, in f', '  File "a.py", line 1, in f'),
    "what was no UTF-8 becomes a question mark": ("ValueError: \udcff", "ValueError: ?"),
    "a long line is cut": ("x" * 9000, "x" * MAX_LINE),
}  # fmt: skip


@pytest.mark.parametrize(("line", "kept"), CLEAN.values(), ids=CLEAN)
def test_clean(line: str, kept: str) -> None:
    assert clean(line) == kept


def test_the_example_of_the_docs_is_right() -> None:
    page = (CHECKOUT / "docs/health.md").read_text()
    block = page.partition("    logRules:\n")[2].partition("\n\n")[0]
    book = Rulebook(parse("rules:\n" + textwrap.dedent(block), path="docs"))
    hit, other = book.hit("worker 3: feeder seven stopped"), book.hit("worker 3: feeder stopped")
    assert hit is not None
    assert (hit.name, hit.source, other) == ("feeder-stopped", "our data feeder", None)
