"""Quantities as Kubernetes writes them."""

from decimal import Decimal
from typing import Any

import pytest

from internlm2_operator.cli import quantity


@pytest.mark.parametrize(
    ("text", "number"),
    [("8", "8"), (8, "8"), ("500m", "0.5"), ("2k", "2000"), ("1.5Gi", str(3 * 2**29)), ("1G", "1000000000"),
     ("2e3", "2000"), ("1E", str(10**18)), ("-1", "-1"), (".5", "0.5")],
)  # fmt: skip
def test_a_quantity_is_a_number(text: Any, number: str) -> None:
    assert quantity.parse(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "odd", "1 Gi", "1gi", "Gi", "1.2.3", "1e", "1Gi2"])
def test_anything_else_is_none(text: str) -> None:
    assert quantity.parse(text) is None
    assert quantity.amount(text) == 0


@pytest.mark.parametrize(("left", "right", "order"), [("1Gi", "1024Mi", 0), ("1G", "1Gi", -1), ("2", "1500m", 1)])
def test_units_are_compared_by_what_they_mean(left: str, right: str, order: int) -> None:
    assert quantity.compare(left, right) == order
