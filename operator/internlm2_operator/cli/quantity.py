"""Quantities of Kubernetes: 500m, 64, 1.5Gi, 2e3."""

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

_DECIMAL: Final[Mapping[str, Decimal]] = {
    suffix: Decimal(1000) ** power
    for suffix, power in (("n", -3), ("u", -2), ("m", -1), ("", 0), ("k", 1), ("M", 2), ("G", 3), ("T", 4), ("P", 5),
                          ("E", 6))
}  # fmt: skip
_BINARY: Final = {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_SUFFIXES: Final = {**_DECIMAL, **_BINARY}
_FORM: Final = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:[eE]([+-]?\d+)|([numkMGTPE]?|[KMGTPE]i))")


def parse(text: Any) -> Decimal | None:
    """Return a quantity as a number, None for what is none."""
    found = _FORM.fullmatch(str(text))
    if found is None:
        return None
    number, exponent, suffix = found.groups()
    return Decimal(number) * (Decimal(10) ** int(exponent) if exponent else _SUFFIXES[suffix or ""])


def amount(text: Any) -> Decimal:
    """Return a quantity that the API server has let through; anything else counts as 0."""
    return parse(text) or Decimal(0)


def compare(left: str, right: str) -> int:
    """Return -1, 0 or 1, as `compareTo` of Kubernetes' CEL."""
    one, other = amount(left), amount(right)
    return (one > other) - (one < other)
