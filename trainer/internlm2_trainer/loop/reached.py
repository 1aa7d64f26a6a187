"""The highest step that the processes of a pod have done, told to those that are started after them."""

import os
from pathlib import Path
from typing import Final

from internlm2_spec.contract import ENV_RUN_DIR

FILE_NAME: Final = "reached"


class Reached:
    """A number in the agent's folder, which outlives the ranks and not the pod. Without a folder, nothing is kept.

    The agent runs one stage in its life.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = os.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT, 0o644) if folder else None
        self.before = self._read()

    @classmethod
    def from_environment(cls) -> "Reached":
        folder = os.environ.get(ENV_RUN_DIR)
        return cls(Path(folder) if folder else None)

    def note(self, step: int) -> None:
        """Keep `step`; a process that dies meanwhile leaves this one or the last."""
        if self._file is not None:
            os.pwrite(self._file, f"{step:020d}".encode(), 0)  # of one length: nothing of the last one is left

    def _read(self) -> int:
        text = os.pread(self._file, 20, 0) if self._file is not None else b""
        return int(text) if text.isdigit() else 0
