import pathlib
import uuid

import numpy as np
import pytest

from internlm2_spec.contract import ExitCode
from internlm2_trainer import packing, storage
from internlm2_trainer.data import Batch, Corpus, DataRefused, open_corpus
from tests import servers

# Ids 0..29 in order, in documents of these lengths: a token's id is its place.
DOCUMENTS = [list(range(0, 5)), list(range(5, 6)), list(range(6, 14)), list(range(14, 30))]


def corpus(
    url: str, cache: pathlib.Path, *, length: int = 4, samples: int = 2, seed: int = 1, shard_tokens: int = 10
) -> Corpus:
    store = storage.open_store(url)
    packing.write(store, DOCUMENTS, vocab=100, tokenizer_sha256="t", shard_tokens=shard_tokens)
    return open_corpus(url, sequence_length=length, global_samples=samples, seed=seed, cache_dir=cache)


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Corpus:
    return corpus(f"file://{tmp_path}/corpus", tmp_path)


def rows(batch: Batch) -> list[list[int]]:
    result: list[list[int]] = batch.tokens.tolist()
    return result


def test_an_epoch_reads_every_window_once_across_shards(small: Corpus) -> None:
    assert (len(small.index.shards), small.samples) == (3, 7)
    firsts = [row[0] for step in range(7) for row in rows(small.batch(step, [0, 1]))]
    assert sorted(firsts[:7]) == sorted(firsts[7:]) == [0, 4, 8, 12, 16, 20, 24]
    assert firsts[:7] != firsts[7:]
    assert all(row == list(range(row[0], row[0] + 4)) for step in range(4) for row in rows(small.batch(step, [0, 1])))


def test_labels_positions_and_documents_end_with_a_document(small: Corpus) -> None:
    batches = [small.batch(step, [0]) for step in range(0, 7)] + [small.batch(step, [1]) for step in range(0, 7)]
    batch = next(b for b in batches if rows(b)[0][0] == 4)  # ids 4 | 5 | 6 7
    assert batch.labels.tolist() == [[-100, -100, 7, 8]]
    assert batch.positions.tolist() == [[0, 0, 0, 1]]
    assert batch.documents.tolist() == [[0, 1, 2, 2]]


def test_a_document_that_ends_with_the_window_masks_its_last_label(tmp_path: pathlib.Path) -> None:
    batch = corpus(f"file://{tmp_path}", tmp_path, length=14, samples=1).batch(0, [0])
    row = next(
        b
        for b in (batch, corpus(f"file://{tmp_path}", tmp_path, length=14, samples=1).batch(1, [0]))
        if rows(b)[0][0] == 0
    )
    assert row.labels[0, -1] == -100


def test_a_batch_is_a_function_of_seed_and_step(tmp_path: pathlib.Path) -> None:
    one, same, other = (corpus(f"file://{tmp_path}/{n}", tmp_path, seed=seed) for n, seed in enumerate((1, 1, 2)))
    assert [rows(one.batch(s, [0, 1])) for s in range(5)] == [rows(same.batch(s, [0, 1])) for s in range(5)]
    assert [rows(one.batch(s, [0, 1])) for s in range(5)] != [rows(other.batch(s, [0, 1])) for s in range(5)]
    assert rows(one.batch(3, [1])) == rows(one.batch(3, [0, 1]))[1:]


@pytest.mark.parametrize(("vocab", "dtype"), [(2048, "uint16"), (65536, "uint16"), (92544, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary_needs(vocab: int, dtype: str, tmp_path: pathlib.Path) -> None:
    store = storage.open_store(f"file://{tmp_path}")
    assert packing.write(store, [[1, vocab - 1]], vocab=vocab, tokenizer_sha256="t").dtype == dtype
    read = open_corpus(store.url, sequence_length=1, global_samples=1, seed=0, cache_dir=tmp_path)
    assert read.batch(0, [0]).labels.tolist() == [[vocab - 1]]


def test_shards_of_s3_are_downloaded_once(s3: servers.S3Server, tmp_path: pathlib.Path) -> None:
    url = s3.url(f"data/{uuid.uuid4()}")
    first = corpus(url, tmp_path)
    storage.open_store(url).delete([shard.tokens_name for shard in first.index.shards])
    again = open_corpus(url, sequence_length=4, global_samples=2, seed=1, cache_dir=tmp_path)
    assert rows(again.batch(0, [0, 1])) == rows(first.batch(0, [0, 1]))


def test_a_damaged_shard_of_s3_is_refused(s3: servers.S3Server, tmp_path: pathlib.Path) -> None:
    url = s3.url(f"data/{uuid.uuid4()}")
    index = corpus(url, tmp_path / "a").index
    storage.open_store(url).put(index.shards[0].tokens_name, [memoryview(b"\0" * 2 * index.shards[0].tokens)])
    with pytest.raises(DataRefused, match="has another SHA-256"):
        open_corpus(url, sequence_length=4, global_samples=2, seed=1, cache_dir=tmp_path / "b")


def remove_index(folder: pathlib.Path) -> None:
    (folder / "index.json").unlink()


def break_index(folder: pathlib.Path) -> None:
    (folder / "index.json").write_text("[]")


def cut_shard(folder: pathlib.Path) -> None:
    (folder / "shard-00000.bin").write_bytes(b"\0\0")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_index, "has no index.json; write the corpus with `internlm2_trainer tokenize"),
        (break_index, "index.json is not a corpus index of this version; run `tokenize` again"),
        (cut_shard, "shard-00000.bin has 1 tokens, not 6"),
    ],
)
def test_data_that_cannot_be_read_is_the_users(damage: object, message: str, tmp_path: pathlib.Path) -> None:
    corpus(f"file://{tmp_path}", tmp_path)
    assert callable(damage)
    damage(tmp_path)
    with pytest.raises(DataRefused, match=message) as refused:
        open_corpus(f"file://{tmp_path}", sequence_length=4, global_samples=2, seed=1, cache_dir=tmp_path)
    assert refused.value.exit_code is ExitCode.DATA


def test_a_corpus_shorter_than_a_sample_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataRefused, match="has 30 tokens, fewer than one sample of 30"):
        corpus(f"file://{tmp_path}", tmp_path, length=30)


def test_document_ends_are_an_array_without_pickle(small: Corpus, tmp_path: pathlib.Path) -> None:
    ends = np.load(tmp_path / "corpus" / small.index.shards[0].ends_name, allow_pickle=False)
    assert ends.tolist() == [5, 6]
