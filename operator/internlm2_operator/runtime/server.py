"""When the operator was last seen alive, for its page /healthz."""

import time
from typing import Final

STALE_SECONDS: Final = 90.0


class Pulse:
    """When the operator last looked at the cluster, in monotonic seconds.

    A LIST that failed counts as a look: restarting the operator does not bring the API server back,
    it only adds the kubelet's back-off to the outage. What must not go unnoticed is a loop that
    hangs, and a watch that is blind while LISTs succeed.
    """

    def __init__(self) -> None:
        self.looked = time.monotonic()
        self.blind_since: float | None = None

    def sick(self, now: float) -> str:
        """Return why the process should be restarted, empty when it should not."""
        if now - self.looked > STALE_SECONDS:
            return f"no look at the cluster for {now - self.looked:.0f} s"
        if self.blind_since is not None and now - self.blind_since > STALE_SECONDS:
            return f"the watch has missed changes for {now - self.blind_since:.0f} s"
        return ""
