"""What figures were measured on, beside which they are written."""

import os
import platform
from typing import Any


def machine() -> dict[str, Any]:
    """Return cores, Python and system."""
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
