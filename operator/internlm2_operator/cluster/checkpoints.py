"""Which checkpoints a job has in S3, read with the job's own credentials.

boto3 blocks, so a look runs in a thread. What a look finds out is always a `CheckpointView`: a store
that cannot be asked is a `problem` that a person can read, never an exception.
"""

import asyncio
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
    fields = {key: b64decode(value).decode() for key, value in encoded.items() if key.startswith("AWS_")}
    if lacking := [key for key in _NEEDED if not fields.get(key)]:
        name = secret["metadata"]["name"]
        raise StoreProblem(SECRET_MISSING, f"Secret {name} lacks {', '.join(lacking)}; add it to the Secret")
    return Credentials(
        key=fields["AWS_ACCESS_KEY_ID"],
        secret=fields["AWS_SECRET_ACCESS_KEY"],
        endpoint=fields.get("AWS_ENDPOINT_URL"),
        region=fields.get("AWS_REGION", "us-east-1"),
    )


class CheckpointIndex:
    """Looks into stores; remembers what it has verified, because a published step does not change."""

    def __init__(self) -> None:
        self._verified: dict[str, dict[int, datetime]] = {}  # by stage folder
        self._clients: dict[Credentials, S3Client] = {}

    async def look(self, place: Place, credentials: Credentials) -> CheckpointView:
        """Return the newest verified checkpoint of a stage; also checks that the stage's data is there."""
        try:
            return await asyncio.to_thread(self._look, place, credentials)
        except StoreProblem as problem:
            return CheckpointView(problem=problem.reason, message=str(problem))

    def _look(self, place: Place, credentials: Credentials) -> CheckpointView:
        client = self._client(credentials)
        with _Explained(place.url):
            view = self._newest(client, place)
        for url in (url for url in place.data_urls if url.startswith("s3://")):
            with _Explained(url):
                _require_data(client, url)
        return view

    def _client(self, credentials: Credentials) -> "S3Client":
        if credentials not in self._clients:
            self._clients[credentials] = boto3.session.Session().client(
                "s3",
                aws_access_key_id=credentials.key,
                aws_secret_access_key=credentials.secret,
                endpoint_url=credentials.endpoint,
                region_name=credentials.region,
                config=_SETTINGS,
            )
        return self._clients[credentials]

    def _newest(self, client: "S3Client", place: Place) -> CheckpointView:
        bucket, root = bucket_and_key(place.url)
        sizes = {key.removeprefix(root): size for key, size in _listing(client, bucket, f"{root}{place.stage}/")}
        verified = self._verified.setdefault(f"{place.url}/{place.stage}", {})
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
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            yield entry["Key"], entry["Size"]


def _verify(
    client: "S3Client", bucket: str, root: str, folder: str, sizes: Mapping[str, int]
) -> tuple[str, datetime | None]:
    """Return the manifest's time, or why the step does not count."""
    text = client.get_object(Bucket=bucket, Key=f"{root}{folder}/{contract.MANIFEST_NAME}")["Body"].read()
    try:
        found = manifest.parse_manifest(text.decode())
    except ValueError as error:
        return str(error)[:256], None
    why = manifest.lacking(found, sizes, folder)
    return (why, None) if why else ("", datetime.fromtimestamp(found.time, UTC))


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
            raise self._refused(error) from error
        if isinstance(error, botocore.exceptions.BotoCoreError | OSError):
            raise StoreProblem(STORE_UNAVAILABLE, f"{self._url}: {type(error).__name__}: {error}"[:512]) from error
        if isinstance(error, ValueError):  # botocore's answer to an endpoint that is no URL
            raise StoreProblem(SECRET_MISSING, f"AWS_ENDPOINT_URL: {error}; write http(s)://HOST:PORT") from error

    def _refused(self, error: botocore.exceptions.ClientError) -> StoreProblem:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code == "NoSuchBucket":
            bucket = bucket_and_key(self._url)[0]
            return StoreProblem(BUCKET_MISSING, f"bucket {bucket} of {self._url} does not exist; create it")
        if code in _REFUSALS:
            return StoreProblem(CREDENTIALS_REFUSED, f"{self._url}: {code}; correct the keys in the Secret")
        return StoreProblem(STORE_UNAVAILABLE, f"{self._url}: {code or error}"[:512])
