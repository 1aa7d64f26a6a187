"""What a real S3 server holds, as the operator sees it."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import boto3
import pytest

from internlm2_operator.cluster import checkpoints
from internlm2_operator.cluster.checkpoints import CheckpointIndex, Credentials, Place
from internlm2_operator.plan.snapshot import CheckpointView
from internlm2_spec import contract, manifest
from tests.servers import S3Server, s3_server

pytestmark = pytest.mark.api


class Store:
    """One run's folder in the server, and a look at it."""

    def __init__(self, server: S3Server, name: str) -> None:
        env = server.environment
        self._server = server
        self._name = name
        self.credentials = Credentials(
            key=env["AWS_ACCESS_KEY_ID"], secret=env["AWS_SECRET_ACCESS_KEY"], endpoint=env["AWS_ENDPOINT_URL"]
        )
        self.place = Place(url=server.url(f"{name}/run"), stage="a", data_urls=(server.url(f"{name}/data"),))
        self.index = CheckpointIndex()

    def put(self, key: str, body: bytes = b"x") -> None:
        with closing(self._client()) as client:
            client.put_object(Bucket=self._server.bucket, Key=f"{self._name}/{key}", Body=body)

    def delete(self, key: str) -> None:
        with closing(self._client()) as client:
            client.delete_object(Bucket=self._server.bucket, Key=f"{self._name}/{key}")

    def _client(self) -> Any:
        asked = self.credentials
        return boto3.client(
            "s3",
            endpoint_url=asked.endpoint,
            aws_access_key_id=asked.key,
            aws_secret_access_key=asked.secret,
            region_name=asked.region,
        )

    def publish(self, step: int, *, size: int = 1, text: str = "", first_time: float = 1000.0) -> None:
        """Put one object of one byte and its manifest, which says `size` bytes, or `text` in its place."""
        folder = f"run/{contract.step_prefix('a', step)}"
        stored = manifest.StoredObject("1-0.safetensors", size, "")
        told = manifest.to_json(manifest.Manifest("a", step, 1, 1, first_time + step, (stored,), {}, {}))
        self.put(f"{folder}/{stored.name}")
        self.put(f"{folder}/{contract.MANIFEST_NAME}", (text or told).encode())

    def look(self) -> CheckpointView:
        return asyncio.run(self.index.look(self.place, self.credentials))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as running:
        yield running


@pytest.fixture
def store(server: S3Server, request: pytest.FixtureRequest) -> Store:
    fresh = Store(server, f"t{abs(hash(request.node.name))}")
    fresh.put("data/index.json")
    return fresh


def test_the_newest_published_step_is_taken(store: Store) -> None:
    store.publish(5)
    store.publish(10)
    view = store.look()
    assert (view.verified, view.corrupt, view.problem) == (10, (), "")
    assert view.time is not None
    assert view.time.timestamp() == 1010.0


def test_a_step_without_a_manifest_and_foreign_files_do_not_exist(store: Store) -> None:
    store.publish(5)
    store.put(f"run/{contract.step_prefix('a', 10)}/1-0.safetensors")
    store.put("run/a/step-9/manifest.json")
    store.put("run/a/notes.txt")
    store.put("run/other/step-00000099/manifest.json")
    assert store.look() == replace(store.look(), verified=5, corrupt=())


@pytest.mark.parametrize(
    ("broken", "why"),
    [({"size": 2}, "has 1 bytes, not 2"), ({"text": "{}"}, "not a checkpoint manifest")],
    ids=["a shorter object", "not a manifest"],
)
def test_a_corrupt_newest_step_is_told_and_passed_over(store: Store, broken: dict[str, str], why: str) -> None:
    store.publish(5)
    store.publish(10, **broken)  # type: ignore[arg-type]  # one row is a number, the other a text
    view = store.look()
    assert (view.verified, [step for step, _ in view.corrupt]) == (5, [10])
    assert why in view.corrupt[0][1]


def test_a_step_that_was_withdrawn_and_written_anew_has_its_new_time(store: Store) -> None:
    store.publish(5)
    store.publish(10)
    assert store.look().verified == 10
    store.delete(f"run/{contract.step_prefix('a', 10)}/{contract.MANIFEST_NAME}")
    assert store.look().verified == 5
    store.publish(10, first_time=2000.0)
    view = store.look()
    assert view.time is not None
    assert (view.verified, view.time.timestamp()) == (10, 2010.0)


def test_an_empty_run_has_no_checkpoint_and_no_problem(store: Store) -> None:
    assert store.look() == CheckpointView()


def test_a_missing_bucket_is_said_with_its_name(store: Store) -> None:
    store.place = replace(store.place, url="s3://nowhere/run")
    view = store.look()
    assert (view.problem, "bucket nowhere" in view.message) == ("BucketMissing", True)


def test_missing_data_is_said_with_the_cure(store: Store) -> None:
    store.place = replace(store.place, data_urls=(*store.place.data_urls, f"{store.place.data_urls[0]}-not"))
    view = store.look()
    assert (view.problem, "internlm2_trainer tokenize" in view.message) == ("DataMissing", True)


def test_refused_keys_are_told_from_an_outage(store: Store) -> None:
    store.credentials = replace(store.credentials, secret="wrong")
    assert store.look().problem == "CredentialsRefused"


def test_an_outage_is_a_problem_until_it_is_over(store: Store, server: S3Server) -> None:
    store.publish(5)
    server.stop()
    assert store.look().problem == "StoreUnavailable"
    server.start()
    assert store.look().verified == 5


def test_another_users_word_about_a_url_counts_for_nothing(store: Store) -> None:
    """Two jobs name one URL; the server that one of them names says that a corrupt step is whole."""
    store.publish(5)
    store.publish(10, size=2)
    elsewhere = replace(store.credentials, key="another", secret="another")
    lie = store.index._store(elsewhere)
    lie.verified[f"{store.place.url}/{store.place.stage}"] = {10: datetime.fromtimestamp(0, UTC)}
    assert store.look().verified == 5


def test_credentials_are_not_remembered_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "MAX_STORES", 2)
    for key in "abc":
        store.index._store(replace(store.credentials, key=key))
    assert [credentials.key for credentials in store.index._stores] == ["b", "c"]


def test_a_list_without_an_end_is_given_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(5)
    monkeypatch.setattr(checkpoints, "LOOK_SECONDS", -1.0)
    view = store.look()
    assert (view.problem, "a LIST took more than" in view.message) == ("StoreUnavailable", True)


def test_a_manifest_is_read_up_to_a_size(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(5)
    monkeypatch.setattr(checkpoints, "MAX_MANIFEST", 16)
    view = store.look()
    assert (view.verified, [step for step, _ in view.corrupt]) == (None, [5])
