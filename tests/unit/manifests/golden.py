"""Golden bodies: the YAML that a manifest builder must return, one file a case."""

import json
import os
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "golden"


def assert_golden(name: str, body: dict[str, Any]) -> None:
    """Compare with golden/<name>.yaml; INTERNLM2_GOLDEN=write writes the file instead."""
    path = FOLDER / f"{name}.yaml"
    if os.environ.get("INTERNLM2_GOLDEN") == "write":
        plain = json.loads(json.dumps(body))  # shared parts would become YAML aliases
        path.write_text(yaml.safe_dump(plain, sort_keys=True, width=120), encoding="utf-8")
    assert body == yaml.safe_load(path.read_text(encoding="utf-8"))
