import os
import pathlib
import threading
import uuid

import pytest

from internlm2_spec.contract import ExitCode
from internlm2_trainer import storage
from internlm2_trainer.storage import Conflict, Entry, Missing, Store, StoreRefused, StoreUnavailable
from tests import servers


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Store:
    if request.param == "file":
        return storage.open_store(f"file://{tmp_path}/new/folder")
    server: servers.S3Server = request.getfixturevalue("s3")
    return storage.open_store(server.url(f"storage/{uuid.uuid4()}"))


def put(store: Store, key: str, body: bytes) -> None:
    store.put(key, [memoryview(body)])


def test_a_body_put_in_parts_is_read_back_whole_and_by_ranges(store: Store) -> None:
    store.put("a/b", [memoryview(b"01"), memoryview(b""), memoryview(b"23456")])
    assert store.get("a/b").body == b"0123456"
    assert store.read("a/b", 2, 3) == b"234"
    assert store.read("a/b", 5, 100) == b"56"


def test_a_body_larger_than_a_piece_is_stored_whole(store: Store) -> None:
    body = os.urandom(storage.PIECE_BYTES + 12345)
    store.put("big", [memoryview(body)[:1000], memoryview(body)[1000:]])
    assert store.list("big") == [Entry("big", len(body))]
    assert store.read("big", storage.PIECE_BYTES - 5, 20) == body[storage.PIECE_BYTES - 5 :][:20]


def test_a_listing_is_sorted_and_limited_to_the_prefix(store: Store) -> None:
    for key in ("s/step-2/x", "s/step-10/x", "t/y", "s/a"):
        put(store, key, b"1")
    assert [entry.key for entry in store.list("s/")] == ["s/a", "s/step-10/x", "s/step-2/x"]
    assert store.list("s/step-1") == [Entry("s/step-10/x", 1)]
    assert store.list("nothing/") == []


def test_an_object_that_is_not_there_is_missing(store: Store) -> None:
    with pytest.raises(Missing):
        store.get("x")
    with pytest.raises(Missing):
        store.read("x", 0, 1)


def test_a_deleted_object_is_gone_and_deleting_again_is_no_error(store: Store) -> None:
    put(store, "a/x", b"1")
    store.delete(["a/x", "a/never"])
    store.delete(["a/x"])
    assert store.list("") == []


def test_creating_an_existing_object_is_a_conflict_unless_the_body_is_the_same(store: Store) -> None:
    store.create("m", b"first")
    store.create("m", b"first")
    with pytest.raises(Conflict):
        store.create("m", b"second")
    assert store.get("m").body == b"first"


def test_a_swap_needs_the_tag_of_the_present_object(store: Store) -> None:
    store.swap("f", b"1", tag=None)
    tag = store.get("f").tag
    store.swap("f", b"2", tag=tag)
    for stale in (tag, None):
        with pytest.raises(Conflict):
            store.swap("f", b"3", tag=stale)
    assert store.get("f").body == b"2"


def test_of_many_writers_that_create_one_object_exactly_one_wins(store: Store) -> None:
    won: list[int] = []

    def create(number: int) -> None:
        try:
            store.create("one", str(number).encode())
            won.append(number)
        except Conflict:
            pass

    threads = [threading.Thread(target=create, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("one").body == str(won[0]).encode()


@pytest.mark.parametrize("url", ["http://x/y", "file://host/x", "s3://", "/plain/path", "file:relative"])
def test_an_url_of_another_kind_is_refused_with_the_kinds_there_are(url: str) -> None:
    with pytest.raises(StoreRefused, match="not a storage URL; write s3://bucket/prefix or file:///folder"):
        storage.open_store(url)


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_the_users_and_data() -> None:
    store = storage.open_store("s3://no-such-bucket/x")
    with pytest.raises(StoreRefused, match="bucket 'no-such-bucket' does not exist; create it") as refused:
        store.list("")
    assert refused.value.exit_code is ExitCode.DATA
    assert "\n" not in str(refused.value)


def test_wrong_credentials_are_the_users_and_configuration(
    s3: servers.S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StoreRefused, match="refuses the credentials") as refused:
        storage.open_store(s3.url("x")).get("y")
    assert refused.value.exit_code is ExitCode.CONFIG


def test_a_server_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch, s3: servers.S3Server) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreUnavailable):
        storage.open_store(s3.url("x")).get("y")


def test_an_unreadable_folder_is_the_users(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreRefused, match="name a folder that this user may write"):
        put(storage.open_store(f"file://{tmp_path}/file"), "a/b", b"1")


def test_an_unfinished_file_is_not_listed(tmp_path: pathlib.Path) -> None:
    (tmp_path / ".internlm2-abc").write_text("half")
    assert storage.open_store(f"file://{tmp_path}").list("") == []
