"""When the kubelet should restart the operator, and when that would not help."""

import pytest

from internlm2_operator.runtime.server import STALE_SECONDS, Pulse

CASES = {
    "a look a moment ago is healthy": (0.0, None, 10.0, ""),
    "no look for too long is a loop that hangs": (0.0, None, STALE_SECONDS + 1, "no look at the cluster"),
    "a watch that missed something just now may catch up": (100.0, 100.0, 110.0, ""),
    "a watch that stays blind needs a new process": (190.0, 100.0, 191.0, "the watch has missed changes"),
}


@pytest.mark.parametrize(("looked", "blind", "now", "why"), CASES.values(), ids=CASES)
def test_pulse(looked: float, blind: float | None, now: float, why: str) -> None:
    pulse = Pulse()
    pulse.looked, pulse.blind_since = looked, blind
    assert pulse.sick(now).startswith(why)
    assert bool(pulse.sick(now)) == bool(why)
