"""Object storage as the trainer needs it: file:// for laptops and mounted volumes, s3:// for clusters.

Errors are told apart here, once: `StoreUnavailable` may pass by itself, `StoreRefused` is the user's to
correct, `Missing` and `Conflict` are answers.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from internlm2_spec.config import Refused
from internlm2_spec.contract import ExitCode

_T = TypeVar("_T")

# Bounded retries of calls that somebody waits for: 0.5 + 1 + 2 + 4 + 8 s between six tries.
ATTEMPTS: Final = 6
FIRST_DELAY_SECONDS: Final = 0.5

# Large objects are read and written in pieces of this size.
PIECE_BYTES: Final = 32 * 2**20


class StoreUnavailable(Exception):
    """The storage does not answer, or answers that it cannot now: worth another try."""


class StoreRefused(Refused):
    """The storage answers that this will not work: a missing bucket, wrong credentials, a wrong URL."""

    def __init__(self, path: str, *, wrong: str, right: str, exit_code: ExitCode = ExitCode.CONFIG) -> None:
        super().__init__(path, wrong=wrong, right=right)
        self.exit_code = exit_code


class Missing(Exception):
    """There is no object of this key."""


class Conflict(Exception):
    """A conditional write lost: the object exists already, or is no longer the one expected."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a listing: key relative to the store's URL, size in bytes."""

    key: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """An object read whole, with the tag that `swap` takes."""

    body: bytes
    tag: str


class Store(Protocol):
    """Objects under one URL. Keys are relative to it, parts joined by `/`.

    Every call raises StoreUnavailable or StoreRefused as well; none retries for more than a few seconds.
    """

    @property
    def url(self) -> str: ...

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        """Write the concatenation of `parts`, replacing; readers see all of it or nothing."""

    def create(self, key: str, body: bytes) -> None:
        """Write a new object. Raise Conflict when another body is there already; the same body is a success."""

    def swap(self, key: str, body: bytes, *, tag: str | None) -> None:
        """Replace the object that has `tag` (None: that does not exist). Raise Conflict when it changed meanwhile."""

    def get(self, key: str) -> Stored:
        """Read a whole object. Raise Missing."""

    def read(self, key: str, start: int, length: int) -> bytes:
        """Read `length` bytes from byte `start`, fewer at the end of the object. Raise Missing."""

    def list(self, prefix: str) -> list[Entry]:
        """Return the objects whose key starts with `prefix`, sorted by key."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects, in this order; one that is not there is no error."""


def open_store(url: str) -> Store:
    """Open `file:///folder` or `s3://bucket/prefix`; nothing is read or created yet.

    S3 takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION and AWS_ENDPOINT_URL from the environment.

    Raises:
        StoreRefused: the URL is of another kind.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/"):
        from internlm2_trainer.storage.file import FileStore

        return FileStore(url, unquote(parts.path))
    if parts.scheme == "s3" and parts.netloc:
        # Imported late: boto3 takes 0.3 s to import, which a restart on file:// need not pay.
        from internlm2_trainer.storage.s3 import S3Store

        return S3Store(url, bucket=parts.netloc, prefix=parts.path.strip("/"))
    raise StoreRefused(url, wrong="not a storage URL", right="write s3://bucket/prefix or file:///folder")


def retrying(action: Callable[[], _T]) -> _T:
    """Call `action` until it is not StoreUnavailable, six times at most; for calls that somebody waits for."""
    for attempt in range(ATTEMPTS - 1):
        try:
            return action()
        except StoreUnavailable:
            time.sleep(FIRST_DELAY_SECONDS * 2**attempt)
    return action()


def read_exactly(store: Store, key: str, start: int, length: int) -> bytes:
    """Read bytes that are known to be there. Raise StoreUnavailable for fewer: the rest was lost on the way."""
    body = store.read(key, start, length)
    if len(body) != length:
        raise StoreUnavailable(f"{key}: {len(body)} of {length} bytes from {start}")
    return body


def digest(parts: Sequence[memoryview]) -> str:
    """Return the SHA-256 of the concatenation, in hex."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()
