"""What of an exporter's series is a value, and what the blank of a field that it could not read."""

import pytest

from internlm2_operator.health.series import XID, XID_COUNT, Series, sort

DBE = "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL"
VALUES = {
    "nothing counted": (0.0, True),
    "many": (2_000_000_000.0, True),
    "below the blanks of 32 bits": (float(0x7FFFFFEF), True),
    "blank of 32 bits": (float(0x7FFFFFF0), False),
    "not supported, of 32 bits": (float(0x7FFFFFF2), False),
    "above the blanks of 32 bits": (float(0x80000000), True),
    "blank of 64 bits": (float(0x7FFFFFFFFFFFFFF0), False),
    "blank of a double": (140737488355328.0, False),
    "not permitted, of a double": (140737488355331.0, False),
    "no number": (float("nan"), False),
    "too large": (float("inf"), False),
}


@pytest.mark.parametrize(("value", "said"), VALUES.values(), ids=VALUES)
def test_value_or_blank(value: float, said: bool) -> None:
    """A blank after a number would be the highest rise that a counter can make."""
    found = sort([Series(DBE, "n1", "GPU-1", value), Series(XID_COUNT, "n1", "GPU-1", value, xid="79")])
    assert (bool(found.counters), bool(found.counts)) == (said, said)
    assert bool(sort([Series(XID, "n1", "GPU-1", value)]).xids) is said
