"""Which checkpoints a job has in S3, read with the job's own credentials.

boto3 blocks, so a look runs in a thread. What a look finds out is always a `CheckpointView`: a store
that cannot be asked is a `problem` that a person can read, never an exception.
"""

import asyncio
import re
import time
from base64 import b64decode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.config
import botocore.exceptions

from internlm2_operator.plan.snapshot import CheckpointView
from internlm2_spec import contract, manifest

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SECRET_MISSING: Final = "SecretMissing"
BUCKET_MISSING: Final = "BucketMissing"
DATA_MISSING: Final = "DataMissing"
STORE_UNAVAILABLE: Final = "StoreUnavailable"
CREDENTIALS_REFUSED: Final = "CredentialsRefused"

DATA_INDEX: Final = "index.json"
_NEEDED: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
_KEYS: Final = (*_NEEDED, "AWS_ENDPOINT_URL", "AWS_REGION")
# What a person copied with its line feed, or something else in its place: it must not reach a header, nor a message.
_PLAIN: Final = re.compile(r"[!-~]+")
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")
# Credentials that are remembered at once; a job can name new ones for ever.
MAX_STORES: Final = 512
# A server of a user's choice may list without an end, slowly, and call anything a manifest.
LOOK_SECONDS: Final = 60.0
MAX_MANIFEST: Final = 64 * 1024 * 1024
_REFUSALS: Final = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403"})
_SETTINGS: Final = botocore.config.Config(
    connect_timeout=3,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 2},
    # Buckets as host names need a DNS entry each, which S3 servers in a cluster rarely have.
    s3={"addressing_style": "auto"},
)


@dataclass(frozen=True, slots=True)
class Place:
    """What to look at: a stage's checkpoints below `url`, and the data that the stage reads."""

    url: str
    stage: str
    data_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Credentials:
    """The fields of the job's Secret that S3 needs."""

    key: str
    secret: str = field(repr=False)
    endpoint: str | None = None
    region: str = "us-east-1"


@dataclass(frozen=True, slots=True)
class Stored:
    """One checkpoint in the store. `why` says what is wrong with it, empty for one that is verified.

    `size` is bytes of all its objects; `world` the ranks that wrote it, 0 where the manifest cannot be read.
    """

    stage: str
    step: int
    size: int
    why: str = ""
    time: datetime | None = None
    world: int = 0


class StoreProblem(Exception):
    """Why the store cannot be judged: a CamelCase reason and a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def credentials_of(secret: Mapping[str, Any]) -> Credentials:
    """Read a Secret.

    Raises:
        StoreProblem: it lacks a key, which is the same to a job as no Secret at all.
    """
    encoded: Mapping[str, str] = secret.get("data") or {}
    name = secret["metadata"]["name"]
    fields = {key: b64decode(value).decode(errors="replace") for key, value in encoded.items() if key in _KEYS}
    for key, value in fields.items():
        if value and not _PLAIN.fullmatch(value):
            why = "holds a space, a line feed or something else that is no printable ASCII; write it anew, without"
            raise StoreProblem(SECRET_MISSING, f"Secret {name}: {key} {why}")
    if "@" in fields.get("AWS_ENDPOINT_URL", ""):
        # Whoever cannot reach a server says its address, the trainer too.
        why = "AWS_ENDPOINT_URL holds a user or a password; write http(s)://HOST:PORT"
        raise StoreProblem(SECRET_MISSING, f"Secret {name}: {why}")
    if lacking := [key for key in _NEEDED if not fields.get(key)]:
        raise StoreProblem(SECRET_MISSING, f"Secret {name} lacks {', '.join(lacking)}; add it to the Secret")
    return Credentials(
        key=fields["AWS_ACCESS_KEY_ID"],
        secret=fields["AWS_SECRET_ACCESS_KEY"],
        endpoint=fields.get("AWS_ENDPOINT_URL") or None,
        region=fields.get("AWS_REGION") or "us-east-1",
    )


@dataclass(frozen=True, slots=True)
class _Store:
    """One server as one user sees it; another's word about the same URL counts for nothing.

    `verified` are the times of the steps that were verified, by stage folder.
    """

    client: "S3Client"
    verified: dict[str, dict[int, datetime]] = field(default_factory=dict)


class CheckpointIndex:
    """Looks into stores; remembers what it has verified, because a published step does not change."""

    def __init__(self) -> None:
        self._stores: dict[Credentials, _Store] = {}

    async def look(self, place: Place, credentials: Credentials) -> CheckpointView:
        """Return the newest verified checkpoint of a stage; also checks that the stage's data is there."""
        try:
            return await asyncio.to_thread(self._look, place, credentials)
        except StoreProblem as problem:
            return CheckpointView(problem=problem.reason, message=str(problem))

    async def history(self, url: str, stage: str, credentials: Credentials) -> tuple[Stored, ...]:
        """Return every checkpoint of a stage, newest first, each with the same judgement that `look` makes.

        Raises:
            StoreProblem: the store could not be read.
        """
        return await asyncio.to_thread(self._history, url, stage, credentials)

    def _history(self, url: str, stage: str, credentials: Credentials) -> tuple[Stored, ...]:
        client = self._store(credentials).client
        with _Explained(url):
            bucket, root = bucket_and_key(url)
            sizes = {key.removeprefix(root): size for key, size in _listing(client, bucket, f"{root}{stage}/")}
            return tuple(_stored(client, bucket, root, stage, step, sizes) for step in manifest.published(sizes, stage))

    def _look(self, place: Place, credentials: Credentials) -> CheckpointView:
        store = self._store(credentials)
        with _Explained(place.url):
            view = self._newest(store, place)
        for url in (url for url in place.data_urls if url.startswith("s3://")):
            with _Explained(url):
                _require_data(store.client, url)
        return view

    def _store(self, credentials: Credentials) -> _Store:
        known = self._stores.get(credentials)
        if known is not None:
            return known
        with _Explained("AWS_ENDPOINT_URL"):
            client = boto3.session.Session().client(
                "s3",
                aws_access_key_id=credentials.key,
                aws_secret_access_key=credentials.secret,
                endpoint_url=credentials.endpoint,
                region_name=credentials.region,
                config=_SETTINGS,
            )
        for oldest in list(self._stores)[: len(self._stores) + 1 - MAX_STORES]:
            self._stores.pop(oldest, None)
        return self._stores.setdefault(credentials, _Store(client))

    def _newest(self, store: _Store, place: Place) -> CheckpointView:
        client = store.client
        bucket, root = bucket_and_key(place.url)
        sizes = {key.removeprefix(root): size for key, size in _listing(client, bucket, f"{root}{place.stage}/")}
        verified = store.verified.setdefault(f"{place.url}/{place.stage}", {})
        corrupt: list[tuple[int, str]] = []
        steps = manifest.published(sizes, place.stage)
        for gone in verified.keys() - steps:  # by retention, or withdrawn after a loss spike and written anew later
            del verified[gone]
        for step in steps:
            if step not in verified:
                why, time = _verify(client, bucket, root, contract.step_prefix(place.stage, step), sizes)
                if time is None:
                    corrupt.append((step, why))
                    continue
                verified[step] = time
            return CheckpointView(verified=step, time=verified[step], corrupt=tuple(corrupt))
        return CheckpointView(corrupt=tuple(corrupt))


def bucket_and_key(url: str) -> tuple[str, str]:
    """Split s3://bucket/a/b into bucket and `a/b/`, the prefix of everything below."""
    parts = urlsplit(url)
    path = parts.path.strip("/")
    return parts.netloc, f"{path}/" if path else ""


def _listing(client: "S3Client", bucket: str, prefix: str) -> Iterator[tuple[str, int]]:
    until = time.monotonic() + LOOK_SECONDS
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        if time.monotonic() > until:
            raise StoreProblem(STORE_UNAVAILABLE, f"s3://{bucket}/{prefix}: a LIST took more than {LOOK_SECONDS:.0f} s")
        for entry in page.get("Contents", ()):
            yield entry["Key"], entry["Size"]


def _verify(
    client: "S3Client", bucket: str, root: str, folder: str, sizes: Mapping[str, int]
) -> tuple[str, datetime | None]:
    """Return the manifest's time, or why the step does not count."""
    why, found = _judged(client, bucket, root, folder, sizes)
    return (why, None) if why or found is None else ("", datetime.fromtimestamp(found.time, UTC))


def _judged(
    client: "S3Client", bucket: str, root: str, folder: str, sizes: Mapping[str, int]
) -> tuple[str, manifest.Manifest | None]:
    """Return what is wrong with a step, and its manifest as far as it can be read."""
    text = client.get_object(Bucket=bucket, Key=f"{root}{folder}/{contract.MANIFEST_NAME}")["Body"].read(MAX_MANIFEST)
    try:
        found = manifest.parse_manifest(text.decode())
    except ValueError as error:
        return str(error)[:256], None
    return manifest.lacking(found, sizes, folder) or "", found


def _stored(client: "S3Client", bucket: str, root: str, stage: str, step: int, sizes: Mapping[str, int]) -> Stored:
    folder = contract.step_prefix(stage, step)
    why, found = _judged(client, bucket, root, folder, sizes)
    held = sum(size for key, size in sizes.items() if key.startswith(f"{folder}/"))
    time = datetime.fromtimestamp(found.time, UTC) if found else None
    return Stored(stage, step, held, why, time, found.world if found else 0)


def _require_data(client: "S3Client", url: str) -> None:
    bucket, root = bucket_and_key(url)
    key = f"{root}{DATA_INDEX}"
    # A LIST and not a HEAD: only it tells a missing bucket from a missing object.
    found = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1)
    if not any(entry["Key"] == key for entry in found.get("Contents", ())):
        raise StoreProblem(DATA_MISSING, f"{url} has no {DATA_INDEX}; write it with `internlm2_trainer tokenize`")


class _Explained:
    """Turns what boto3 raises about `url` into a `StoreProblem`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, botocore.exceptions.ClientError):
            raise self._refused(error) from None
        # Neither words of botocore nor of the server: they hold values of the Secret, and whatever answers at an
        # address of the user's choice. Without `from`: a traceback in the log would say them after all.
        if isinstance(error, ValueError):  # botocore's answer to an endpoint or a region that is none
            why = "AWS_ENDPOINT_URL or AWS_REGION of the Secret makes no address; write http(s)://HOST:PORT"
            raise StoreProblem(SECRET_MISSING, why) from None
        if isinstance(error, botocore.exceptions.BotoCoreError | OSError):
            why = f"{type(error).__name__}; see whether an S3 server answers the operator at AWS_ENDPOINT_URL"
            raise StoreProblem(STORE_UNAVAILABLE, f"{self._url}: {why}") from None

    def _refused(self, error: botocore.exceptions.ClientError) -> StoreProblem:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            bucket = bucket_and_key(self._url)[0]
            return StoreProblem(BUCKET_MISSING, f"bucket {bucket} of {self._url} does not exist; create it")
        if code in _REFUSALS:
            return StoreProblem(CREDENTIALS_REFUSED, f"{self._url}: {code}; correct the keys in the Secret")
        said = code if _CODE.fullmatch(code) else "no S3 answer"
        return StoreProblem(STORE_UNAVAILABLE, f"{self._url}: {said}")
