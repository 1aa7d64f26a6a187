"""A folder as an object store: whole files by rename, new files by link, swaps under a lock."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Final

from internlm2_trainer.storage import Conflict, Entry, Missing, Stored, StoreRefused, StoreUnavailable

# Begins the names that `list` leaves out: unfinished files of a writer that may be dead, and the lock.
HIDDEN: Final = ".internlm2-"


class FileStore:
    """Store under one folder, which is made by the first write. Several hosts may share it over NFS."""

    def __init__(self, url: str, root: str) -> None:
        self.url = url
        self._root = pathlib.Path(root)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        with self._errors(), self._written(key, parts) as temporary:
            os.replace(temporary, self._root / key)

    def create(self, key: str, body: bytes) -> None:
        with self._errors(), self._written(key, [memoryview(body)]) as temporary:
            try:
                os.link(temporary, self._root / key)
            except FileExistsError:
                if (self._root / key).read_bytes() != body:
                    raise Conflict(f"{key} exists") from None

    def swap(self, key: str, body: bytes, *, tag: str | None) -> None:
        with self._errors(), self._written(key, [memoryview(body)]) as temporary, self._locked():
            path = self._root / key
            if (_tag(path.read_bytes()) if path.exists() else None) != tag:
                raise Conflict(f"{key} changed")
            os.replace(temporary, path)

    def get(self, key: str) -> Stored:
        with self._errors(key):
            body = (self._root / key).read_bytes()
        return Stored(body, _tag(body))

    def read(self, key: str, start: int, length: int) -> bytes:
        with self._errors(key), (self._root / key).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def list(self, prefix: str) -> list[Entry]:
        with self._errors():
            return sorted(self._entries(prefix), key=lambda entry: entry.key)

    def delete(self, keys: Sequence[str]) -> None:
        with self._errors():
            for key in keys:
                path = self._root / key
                path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):  # its folder, unless something is left in it
                    path.parent.rmdir()

    def _entries(self, prefix: str) -> Iterator[Entry]:
        for folder, _, names in os.walk(self._root / prefix.rpartition("/")[0]):
            for name in names:
                path = pathlib.Path(folder, name)
                key = path.relative_to(self._root).as_posix()
                if key.startswith(prefix) and not name.startswith(HIDDEN):
                    with contextlib.suppress(FileNotFoundError):  # deleted since the walk saw it
                        yield Entry(key, path.stat().st_size)

    @contextlib.contextmanager
    def _written(self, key: str, parts: Sequence[memoryview]) -> Iterator[str]:
        """Yield the path of a finished temporary file beside `key`."""
        folder = (self._root / key).parent
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=HIDDEN, dir=folder)
        try:
            with open(descriptor, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            yield temporary
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self._root / f"{HIDDEN}lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _errors(self, key: str | None = None) -> Iterator[None]:
        """Translate the operating system's errors; a missing file is an answer where `key` is being read."""
        try:
            yield
        except FileNotFoundError as error:
            if key is not None:
                raise Missing(key) from None
            raise StoreUnavailable(f"{self.url}: {error}") from error
        except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
            wrong = f"{error.strerror} ({error.filename})"
            raise StoreRefused(self.url, wrong=wrong, right="name a folder that this user may write") from None
        except OSError as error:
            raise StoreUnavailable(f"{self.url}: {error}") from error


def _tag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
