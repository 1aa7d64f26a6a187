"""Which rule of the table a line of a log hits, and the rules that a cluster adds to it."""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import yaml
from pydantic import StringConstraints, TypeAdapter
from pydantic_core import SchemaError

from internlm2_operator.health.logrules import EXCEPTION, TABLE, LogRule, Weight
from internlm2_operator.health.verdict import Blame
from internlm2_spec.config import Refused

# What of a line is looked at: the words that tell stand at its beginning.
MAX_LINE: Final = 2000
MAX_RULES: Final = 200
MAX_PATTERN: Final = 300
MAX_COUNT: Final = 100
_MAX_TEXT: Final = 200
_FIELDS: Final = ("name", "pattern", "blame", "cause", "weight", "source")
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_CAUSE: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,62}")
_COUNT: Final = re.compile(r"(\)?)\{(\d+)(?:,(\d*))?\}")
_RIGHT: Final[Mapping[str, str]] = {
    "name": "use lower-case words joined by -, at most 63 characters",
    "pattern": f"write a regular expression of 1 to {MAX_PATTERN} characters",
    "blame": f"use one of {', '.join(Blame)}",
    "cause": "use CamelCase, letters and digits, at most 63 characters",
    "weight": f"use one of {', '.join(Weight)}",
    "source": f"say in 1 to {_MAX_TEXT} characters who writes such lines",
}
# Colours, and what a launcher puts before the line of a rank (torchrun's tee, PyTorch's hook of exceptions, srun -l).
_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_PREFIX: Final = re.compile(r"(?:\d{1,6}: )?(?:\[(?:rank|default)\d+\]: ?)*", re.A)
_BEGINS: Final = frozenset("[0123456789")


@dataclass(frozen=True, slots=True)
class Rulebook:
    """The table, then `further` rules, then any other exception: the first that fits is the hit.

    A further rule thus speaks where the table has nothing to say, and never makes a cause of a symptom.
    """

    further: tuple[LogRule, ...] = ()

    @property
    def rules(self) -> tuple[LogRule, ...]:
        return (*TABLE, *self.further, EXCEPTION)

    def hit(self, line: str) -> LogRule | None:
        """Return the rule of a line that `clean` has made ready, None for a line that says nothing of a fault."""
        if not _search(_any_of(self.further))(line):
            return None
        return next((rule for rule in self.rules if fits(rule, line)), None)


def clean(line: str) -> str:
    """Return the part of a line that rules look at: without colours and a launcher's prefix, at most MAX_LINE long."""
    # A lone surrogate (from bytes that were no UTF-8) would make the engine refuse the whole line.
    text = _COLOUR.sub("", line[: 2 * MAX_LINE]).encode("utf-8", "replace").decode().rstrip("\n")
    return _PREFIX.sub("", text, count=1)[:MAX_LINE] if text[:1] in _BEGINS else text[:MAX_LINE]


def fits(rule: LogRule, line: str) -> bool:
    return _search(rule.pattern)(line)


def parse(text: str, *, path: str) -> tuple[LogRule, ...]:
    """Return the further rules in a ConfigMap's text: YAML or JSON, `rules` with the fields of LogRule in each.

    `source` may be left out; it is then `path`, as which messages call the text.

    Raises:
        Refused: names the rule, the field and what would be right. No rule of the text is then in force.
    """
    try:
        body = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        wrong = " ".join(str(error).split())[:200]
        raise Refused(path, wrong=f"is neither YAML nor JSON ({wrong})", right="write rules: [...]") from None
    if not isinstance(body, Mapping) or not isinstance(body.get("rules"), list) or len(body) > 1:
        raise Refused(path, wrong="is not an object with the one field `rules`", right="write rules: [...]")
    if len(body["rules"]) > MAX_RULES:
        raise Refused(f"{path}: rules", wrong=f"{len(body['rules'])} rules", right=f"write {MAX_RULES} at most")
    rules = tuple(_rule(row, number, path) for number, row in enumerate(body["rules"]))
    taken = {rule.name for rule in (*TABLE, EXCEPTION)}
    for rule in rules:
        if rule.name in taken:
            raise Refused(f"{path}: rules[{rule.name}].name", wrong="is taken already", right="use another name")
        taken.add(rule.name)
    try:
        _search(_any_of(rules))
    except SchemaError:
        raise Refused(f"{path}: rules", wrong="are too large together", right="count less far, or use fewer") from None
    return rules


def _rule(row: object, number: int, path: str) -> LogRule:
    if not isinstance(row, Mapping):
        right = f"write an object with {', '.join(_FIELDS)}"
        raise Refused(f"{path}: rules[{number}]", wrong="is no object", right=right)
    where = f"{path}: rules[{row['name'] if _is_name(row.get('name')) else number}]"
    for key in row:
        if key not in _FIELDS:
            name = key[:80] if isinstance(key, str) else type(key).__name__
            raise Refused(f"{where}.{name}", wrong="is not known", right=f"use {', '.join(_FIELDS)}")
    for key in _FIELDS[:-1]:
        if key not in row:
            raise Refused(f"{where}.{key}", wrong="is missing", right=_RIGHT[key])
    fields: dict[str, Any] = {"source": path, **row}
    for key, value in fields.items():
        if not isinstance(value, str) or not value or len(value) > (MAX_PATTERN if key == "pattern" else _MAX_TEXT):
            # Never the value itself: YAML's aliases make a short text a huge one.
            wrong = f"has {len(value)} characters" if isinstance(value, str) else f"is of type {type(value).__name__}"
            raise Refused(f"{where}.{key}", wrong=wrong, right=_RIGHT[key])
    _check(where, "name", _is_name(fields["name"]), fields)
    _check(where, "cause", _CAUSE.fullmatch(fields["cause"]) is not None, fields)
    _check(where, "blame", fields["blame"] in list(Blame), fields)
    _check(where, "weight", fields["weight"] in list(Weight), fields)
    _check_pattern(f"{where}.pattern", fields["pattern"])
    return LogRule(**(fields | {"blame": Blame(fields["blame"]), "weight": Weight(fields["weight"])}))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _check(where: str, key: str, holds: bool, fields: Mapping[str, str]) -> None:
    if not holds:
        raise Refused(f"{where}.{key}", wrong=f"{fields[key][:80]!r} is not right", right=_RIGHT[key])


def _check_pattern(where: str, pattern: str) -> None:
    # A repetition that is counted is written out, and those within it, too: 25 characters can cost seconds a line.
    for group, *counts in _COUNT.findall(pattern):
        if group or any(count and int(count) > MAX_COUNT for count in counts):
            right = f"count single characters, to {MAX_COUNT} at most, and repeat groups by * or +"
            raise Refused(where, wrong="counts a group, or too far", right=right)
    try:
        search = _search(pattern)
    except SchemaError as error:
        reason = str(error).strip().rsplit("\n", 1)[-1].strip().removeprefix("error: ").removeprefix("SchemaError: ")
        raise Refused(where, wrong=reason[:200], right="correct it; the syntax is that of Rust's regex") from None
    if search(""):
        raise Refused(where, wrong="fits an empty line, and so any", right="write words that only this error has")


@functools.lru_cache(maxsize=1024)
def _search(pattern: str) -> Callable[[str], bool]:
    """Return what says whether the pattern is found in a line, in linear time.

    pydantic matches with Rust's regex crate, which does not backtrack: no line that a user writes against a pattern
    can hold up the operator.
    """
    return TypeAdapter(Annotated[str, StringConstraints(pattern=pattern)]).validator.isinstance_python


@functools.lru_cache(maxsize=16)
def _any_of(further: tuple[LogRule, ...]) -> str:
    """Return one pattern for all rules: nearly every line is about no fault, and is looked at once."""
    return "|".join(f"(?:{rule.pattern})" for rule in (*TABLE, *further, EXCEPTION))
