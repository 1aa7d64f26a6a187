"""The proxy turns one bit of bulk and leaves headers alone."""

import pytest

from lab.s3proxy import BULK, turned

CASES = {
    "a small piece may hold a header and passes": (bytes(BULK - 1), 0.0, 1.0, 0),
    "bulk below the share has one bit turned": (bytes(BULK), 0.1, 0.2, 1),
    "bulk above the share passes": (bytes(BULK), 0.2, 0.2, 0),
    "without a share nothing is touched": (bytes(BULK), 0.0, 0.0, 0),
}


@pytest.mark.parametrize(("piece", "chance", "share", "bits"), CASES.values(), ids=CASES.keys())
def test_bits_that_are_turned(piece: bytes, chance: float, share: float, bits: int) -> None:
    after = turned(piece, chance, share)
    assert len(after) == len(piece)
    assert sum((a ^ b).bit_count() for a, b in zip(piece, after, strict=True)) == bits
