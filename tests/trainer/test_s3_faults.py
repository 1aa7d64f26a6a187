"""A real S3 server behind a proxy that breaks requests: saves end, and loads see whole steps or say why not."""

import os
import uuid

import pytest

from internlm2_trainer import storage
from internlm2_trainer.storage import Store
from tests import servers
from tests.proxy import Fault, in_front_of
from tests.trainer.states import checkpointer, restored, state_of

SHARD, MANIFEST, FENCE = r"\.safetensors", r"manifest\.json", r"fence\.json"

# What breaks, while a step is saved.
SAVES = {
    "500 for a shard": Fault("500 InternalError", f"PUT .*{SHARD}"),
    "503 for a shard": Fault("503 SlowDown", f"PUT .*{SHARD}", times=2),
    "503 for the manifest": Fault("503 SlowDown", f"PUT .*{MANIFEST}", times=2),
    "429 for the fence": Fault("429 TooManyRequests", f"(GET|PUT) .*{FENCE}"),
    "the shard is cut off": Fault("cut before", f"PUT .*{SHARD}"),
    "the answer about the shard is lost": Fault("cut after", f"PUT .*{SHARD}"),
    "the answer about the manifest is lost": Fault("cut after", f"PUT .*{MANIFEST}"),
    "the answer about the fence is lost": Fault("cut after", f"PUT .*{FENCE}"),
    "the shard has another ETag": Fault("etag", f"PUT .*{SHARD}"),
    "the manifest has another ETag": Fault("etag", f"PUT .*{MANIFEST}"),
    "the shard arrives damaged": Fault("400 BadDigest", f"PUT .*{SHARD}"),
    "the server's clock is ahead": Fault("403 RequestTimeTooSkewed", f"PUT .*{SHARD}", times=3),
    "another write is in flight": Fault("409 ConditionalRequestConflict", f"PUT .*{MANIFEST}"),
    "the listing for retention fails": Fault("500 InternalError", "GET .*list-type", times=9),
}

# What breaks, while a step is loaded.
LOADS = {
    "503 for the listing": Fault("503 SlowDown", "GET .*list-type", times=2),
    "the listing is cut short": Fault("truncate", "GET .*list-type"),
    "500 for the manifest": Fault("500 InternalError", f"GET .*{MANIFEST}"),
    "the manifest is cut short": Fault("truncate", f"GET .*{MANIFEST}"),
    "the shard is cut short": Fault("truncate", f"GET .*{SHARD}"),
    "the connection ends": Fault("cut before", f"GET .*{SHARD}"),
    "the fence is cut short": Fault("truncate", f"GET .*{FENCE}"),
}


@pytest.fixture
def url(s3: servers.S3Server) -> str:
    return s3.url(f"faults/{uuid.uuid4()}")


def opened(url: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return storage.open_store(url)


@pytest.mark.parametrize("what", SAVES)
def test_a_save_ends_with_a_whole_step_although(
    what: str, url: str, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, fault = s3.environment["AWS_ENDPOINT_URL"], SAVES[what]
    with in_front_of(direct, fault) as endpoint:
        checkpoints = checkpointer(opened(url, endpoint, monkeypatch))
        for step in (1, 2):
            checkpoints.save(step, state_of(step), {}, wait=True)
    assert fault.done == fault.times or (fault.times > 3 and fault.done)
    assert restored(opened(url, direct, monkeypatch)) == (2.0, 2, ())


@pytest.mark.parametrize("what", LOADS)
def test_a_load_ends_with_the_newest_step_although(
    what: str, url: str, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, fault = s3.environment["AWS_ENDPOINT_URL"], LOADS[what]
    checkpoints = checkpointer(opened(url, direct, monkeypatch))
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {}, wait=True)
    with in_front_of(direct, fault) as endpoint:
        assert restored(opened(url, endpoint, monkeypatch)) == (2.0, 2, ())
    assert fault.done == fault.times


@pytest.mark.parametrize("what", [SHARD, MANIFEST], ids=["shard", "manifest"])
def test_a_bit_that_changed_on_the_way_is_never_loaded(
    what: str, url: str, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, fault = s3.environment["AWS_ENDPOINT_URL"], Fault("flip", f"GET .*step-00000002/.*{what}")
    checkpoints = checkpointer(opened(url, direct, monkeypatch))
    for step in (1, 2):
        checkpoints.save(step, state_of(step), {}, wait=True)
    with in_front_of(direct, fault) as endpoint:
        value, step, passed_over = restored(opened(url, endpoint, monkeypatch))
    assert (value, step, [damaged for damaged, _ in passed_over]) == (1.0, 1, [2])


@pytest.mark.parametrize(
    "fault",
    [
        Fault("503 SlowDown", "PUT .*partNumber=2", times=2),
        Fault("cut after", "PUT .*partNumber=1"),
        Fault("cut after", r"POST .*uploadId="),
    ],
    ids=["slow down", "a part's answer is lost", "the last answer is lost"],
)
def test_an_object_of_several_parts_is_whole_or_worth_another_try(
    fault: Fault, url: str, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, body = s3.environment["AWS_ENDPOINT_URL"], os.urandom(storage.PIECE_BYTES + 1000)
    with in_front_of(direct, fault) as endpoint:
        store = opened(url, endpoint, monkeypatch)
        storage.retrying(lambda: store.put("big", [memoryview(body)]))
    assert fault.done == fault.times
    assert opened(url, direct, monkeypatch).get("big").body == body


def test_an_etag_that_the_server_does_not_know_is_worth_another_try(
    url: str, s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, body = s3.environment["AWS_ENDPOINT_URL"], os.urandom(storage.PIECE_BYTES + 1000)
    with in_front_of(direct, Fault("etag", "PUT .*partNumber=1")) as endpoint:
        store = opened(url, endpoint, monkeypatch)
        with pytest.raises(storage.StoreUnavailable):
            store.put("big", [memoryview(body)])
        assert store.list("") == []
        store.put("big", [memoryview(body)])
    assert opened(url, direct, monkeypatch).get("big").body == body
