"""Wait until the operator at the address of the first argument leads; what `helm test` runs."""

import sys
import time
import urllib.error
import urllib.request

DEADLINE_SECONDS = 60.0


def main() -> None:
    """Exit with one line that says what is wrong, or return."""
    until, why = time.monotonic() + DEADLINE_SECONDS, ""
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{sys.argv[1]}/healthz", timeout=5) as answer:
                answer.read()
            with urllib.request.urlopen(f"{sys.argv[1]}/metrics", timeout=5) as answer:
                lines = answer.read().decode().splitlines()
            if "internlm2_operator_leader 1.0" in lines:
                print("the operator is healthy and holds the lease")
                return
            why = "it does not hold the lease; another operator may, see the Lease internlm2-operator"
        except (OSError, urllib.error.URLError) as error:
            why = f"{type(error).__name__}: {error}; see the log of its pod"
        time.sleep(1.0)
    sys.exit(f"the operator at {sys.argv[1]}: {why}")


main()
