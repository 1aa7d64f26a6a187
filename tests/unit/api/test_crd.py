"""The CRD is what the API conventions ask for: bounded, described, with list types."""

from collections.abc import Iterator
from typing import Any, Final

import pytest

from internlm2_operator.api import crd

Field = tuple[str, dict[str, Any]]
SCHEMA: Final = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def walk(path: str, node: dict[str, Any]) -> Iterator[Field]:
    """Yield every field below `node` with its path."""
    for name, child in node.get("properties", {}).items():
        yield f"{path}.{name}", child
        yield from walk(f"{path}.{name}", child)
    if "items" in node:
        yield f"{path}[]", node["items"]
        yield from walk(f"{path}[]", node["items"])


FIELDS: Final = [field for part in ("spec", "status") for field in walk(part, SCHEMA["properties"][part])]
NAMED: Final = [field for field in FIELDS if not field[0].endswith("[]")]


def is_bounded(node: dict[str, Any]) -> bool:
    """Tell whether a string, list or map has an end, which the cost estimate of CEL needs."""
    bounds = {"string": ("maxLength", "enum"), "array": ("maxItems",)}
    if node.get("format") == "date-time" or "x-kubernetes-int-or-string" in node:
        return True
    if node.get("type") == "object" and "additionalProperties" in node:
        return "maxProperties" in node
    return any(bound in node for bound in bounds.get(node.get("type", ""), node))


def test_the_walk_reaches_every_part() -> None:
    assert len(FIELDS) > 150
    assert {"spec.stages[].parallel.zero.shard", "status.faults[].times.cordon"} <= {path for path, _ in FIELDS}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field[0])
def test_a_string_list_or_map_is_bounded(field: Field) -> None:
    assert is_bounded(field[1])


@pytest.mark.parametrize("field", NAMED, ids=lambda field: field[0])
def test_a_description_starts_with_the_name_of_the_field(field: Field) -> None:
    path, node = field
    assert node["description"].startswith(path.rsplit(".", 1)[-1] + " ")
    assert node["description"].endswith(".")


@pytest.mark.parametrize("field", [f for f in FIELDS if f[1].get("type") == "array"], ids=lambda field: field[0])
def test_a_list_says_how_it_is_merged(field: Field) -> None:
    assert field[1]["x-kubernetes-list-type"] in ("atomic", "map", "set")


@pytest.mark.parametrize("field", [f for f in FIELDS if f[1].get("type") == "integer"], ids=lambda field: field[0])
def test_an_integer_of_the_spec_has_both_ends(field: Field) -> None:
    path, node = field
    assert path.startswith("status.") or "enum" in node or {"minimum", "maximum"} <= node.keys()


def test_a_rule_tells_field_value_and_cure() -> None:
    """A message without a hole tells no value; one without a semicolon tells no cure."""
    nodes = [SCHEMA, *(node for _, node in FIELDS), SCHEMA["properties"]["spec"]]
    rules = [rule for node in nodes for rule in node.get("x-kubernetes-validations", ())]
    assert len(rules) >= 25
    assert [rule for rule in rules if ".format([" not in rule["messageExpression"]] == []
    assert [rule for rule in rules if ";" not in rule["messageExpression"]] == []
