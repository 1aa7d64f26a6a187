"""A real Kubernetes on one Linux machine, in network namespaces of its own; only the GPUs are simulated."""

import sys
from pathlib import Path

# The lab starts on a bare checkout, before anything is installed: the contract's names come from the source tree.
sys.path.append(str(Path(__file__).resolve().parents[1] / "trainer"))
