"""S3, or anything that speaks it, as an object store: boto3 with conditional writes."""

import base64
import bisect
import contextlib
import hashlib
import io
import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, Final, cast

import boto3
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    NoCredentialsError,
    PartialCredentialsError,
)

from internlm2_spec.contract import ExitCode
from internlm2_trainer.storage import PIECE_BYTES, Conflict, Entry, Missing, Stored, StoreRefused, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

# Parts of one object on the way at a time; each is sent from where it lies, without a copy.
UPLOADERS: Final = 4

CREDENTIAL_CODES: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
# A file as body makes the client ask first (Expect: 100-continue): below this size that costs more than a copy.
COPIED_BYTES: Final = 2**20

# Worth another try although their status says that the request was wrong: a conditional write that met another
# one in flight, a body damaged on the way, an upload that the server forgot, a clock that is being set.
RETRIED_CODES: Final = frozenset({
    "ConditionalRequestConflict", "OperationAborted", "RequestTimeout", "SlowDown", "BadDigest", "IncompleteBody",
    "InvalidPart", "InvalidPartOrder", "NoSuchUpload", "RequestTimeTooSkewed", "XAmzContentSHA256Mismatch",
})  # fmt: skip


class Piece(io.RawIOBase):
    """A file over parts of memory: the body of one request, which the client may read more than once."""

    def __init__(self, parts: list[memoryview]) -> None:
        self.parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))
        self._at = 0

    def sent(self) -> "bytes | IO[Any]":
        """Return what to give to the client."""
        if not self._ends or self._ends[-1] < COPIED_BYTES:
            return b"".join(self.parts)
        return cast(IO[Any], self)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self._ends[-1] if self._ends else 0
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        number = bisect.bisect_right(self._ends, self._at)  # the first part that ends beyond here
        if number == len(self.parts):
            return 0
        part = self.parts[number]
        first = self._at - (self._ends[number] - len(part))
        taken = part[first : first + len(buffer)]
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)


def split(parts: Sequence[memoryview], size: int) -> Iterator[Piece]:
    """Cut the concatenation of `parts` into pieces of `size` bytes, the last one shorter; at least one piece."""
    taken: list[memoryview] = []
    room = size
    for part in parts:
        at = 0
        while at < len(part):
            if room == 0:
                yield Piece(taken)
                taken, room = [], size
            taken.append(part[at : at + room])
            at += len(taken[-1])
            room -= len(taken[-1])
    yield Piece(taken)


class S3Store:
    """Store under `bucket/prefix`."""

    def __init__(self, url: str, *, bucket: str, prefix: str) -> None:
        self.url = url
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = _client(url)

    def put(self, key: str, parts: Sequence[memoryview]) -> None:
        pieces = list(split(parts, PIECE_BYTES))
        with self._errors(key):
            if len(pieces) == 1:
                self._put(key, pieces[0])
            else:
                self._put_multipart(key, pieces)

    def create(self, key: str, body: bytes) -> None:
        self._put_if(key, body, IfNoneMatch="*")

    def swap(self, key: str, body: bytes, *, tag: str | None) -> None:
        if tag is None:
            self._put_if(key, body, IfNoneMatch="*")
        else:
            self._put_if(key, body, IfMatch=tag)

    def get(self, key: str) -> Stored:
        with self._errors(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)
            return Stored(answer["Body"].read(), answer["ETag"])

    def read(self, key: str, start: int, length: int) -> bytes:
        if length == 0:
            return b""
        span = f"bytes={start}-{start + length - 1}"
        with self._errors(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, Range=span)
            return answer["Body"].read()

    def list(self, prefix: str) -> list[Entry]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix + prefix
        )
        with self._errors(prefix):
            found = [
                Entry(item["Key"].removeprefix(self._prefix), item["Size"])
                for page in pages
                for item in page.get("Contents", [])
                if not item["Key"].endswith("/")
            ]
        return sorted(found, key=lambda entry: entry.key)

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:  # one by one: the order is promised, and a batch has none
            with self._errors(key), contextlib.suppress(Missing):
                self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def _put(self, key: str, body: Piece, **condition: str) -> None:
        conditions: dict[str, Any] = dict(condition)
        self._client.put_object(
            Bucket=self._bucket, Key=self._prefix + key, Body=body.sent(), ContentMD5=_md5(body), **conditions
        )

    def _put_if(self, key: str, body: bytes, **condition: str) -> None:
        """Write under a condition; a body that is there already is ours, from a try whose answer was lost."""
        try:
            with self._errors(key):
                self._put(key, Piece([memoryview(body)]), **condition)
        except (Conflict, Missing):
            with contextlib.suppress(Missing):
                if self.get(key).body == body:
                    return
            raise Conflict(f"{key} changed") from None

    def _put_multipart(self, key: str, pieces: Sequence[Piece]) -> None:
        where: dict[str, Any] = {"Bucket": self._bucket, "Key": self._prefix + key}
        upload = self._client.create_multipart_upload(**where)["UploadId"]
        try:
            with ThreadPoolExecutor(UPLOADERS) as pool:
                parts = [pool.submit(self._put_part, where, upload, *item) for item in enumerate(pieces, start=1)]
                try:
                    done = [part.result() for part in parts]
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            self._client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": done})
        except BaseException:
            with contextlib.suppress(BotoCoreError, ClientError):
                self._client.abort_multipart_upload(**where, UploadId=upload)
            raise

    def _put_part(self, where: dict[str, Any], upload: str, number: int, piece: Piece) -> "CompletedPartTypeDef":
        answer = self._client.upload_part(
            **where, UploadId=upload, PartNumber=number, Body=piece.sent(), ContentMD5=_md5(piece)
        )
        return {"ETag": answer["ETag"], "PartNumber": number}

    @contextlib.contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise self._translated(error, key) from error
        except (NoCredentialsError, PartialCredentialsError) as error:
            right = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (spec.checkpoint.secretName)"
            raise StoreRefused(self.url, wrong="no S3 credentials", right=right) from error
        except BotoCoreError as error:  # timeouts, refused connections, broken streams
            raise StoreUnavailable(f"{self.url}: {error}") from error

    def _translated(self, error: ClientError, key: str) -> Exception:
        code = error.response.get("Error", {}).get("Code", "")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if code == "NoSuchBucket":
            wrong, right = f"bucket {self._bucket!r} does not exist", "create it or correct the URL"
            return StoreRefused(self.url, wrong=wrong, right=right, exit_code=ExitCode.DATA)
        if status == 412 or code == "PreconditionFailed":
            return Conflict(key)
        if status >= 500 or status == 429 or code in RETRIED_CODES:
            return StoreUnavailable(f"{self.url}: {code} {status}")
        if status == 404:
            return Missing(key)
        if status in (401, 403) or code in CREDENTIAL_CODES:
            right = "give a key pair that may read and write this bucket (spec.checkpoint.secretName)"
            return StoreRefused(self.url, wrong=f"S3 refuses the credentials ({code})", right=right)
        return StoreRefused(self.url, wrong=f"S3 refuses {key}: {error}", right="correct the URL or the endpoint")


def _client(url: str) -> "S3Client":
    endpoint = os.environ.get("AWS_ENDPOINT_URL") or None
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "max_attempts": 3},
        max_pool_connections=16,
        # Our own Content-MD5 is the integrity check: servers other than AWS reject the newer trailers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # A server of one's own seldom has a DNS name a bucket.
        s3={"addressing_style": "path" if endpoint else "auto"},
    )
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return boto3.client(
            "s3",
            region_name=region,
            endpoint_url=endpoint,
            config=config,
            # Named, because boto3's default session keeps the first credentials that it saw. None: its other sources.
            aws_access_key_id=os.environ.get("AWS_ACCESS_KEY_ID"),
            aws_secret_access_key=os.environ.get("AWS_SECRET_ACCESS_KEY"),
            aws_session_token=os.environ.get("AWS_SESSION_TOKEN"),
        )
    except ValueError as error:  # botocore's word for a malformed endpoint
        raise StoreRefused(url, wrong=f"AWS_ENDPOINT_URL: {error}", right="write http://host:port") from error


def _md5(body: "Piece") -> str:
    total = hashlib.md5(usedforsecurity=False)
    for part in body.parts:
        total.update(part)
    return base64.b64encode(total.digest()).decode()
