"""A corpus on file:// and s3://: windows over its documents, and what damage is refused."""

import pathlib
import uuid
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from internlm2_spec.config import DataSource
from internlm2_spec.contract import ExitCode
from internlm2_trainer import storage
from internlm2_trainer.data import packing
from internlm2_trainer.data.windows import Batch, Corpus, DataRefused, Kept, batch, open_corpus
from tests import servers
from tests.examples import few

# Ids 0..29 in order, in documents of these lengths: a token's id is its place.
DOCUMENTS = [list(range(0, 5)), list(range(5, 6)), list(range(6, 14)), list(range(14, 30))]


def opened(url: str, cache: pathlib.Path, *, length: int = 4) -> Corpus:
    return open_corpus(DataSource(url), sequence_length=length, cache_dir=cache)


def corpus(url: str, cache: pathlib.Path, *, length: int = 4) -> Corpus:
    packing.write(storage.open_store(url), DOCUMENTS, vocab=100, tokenizer_sha256="t", shard_tokens=10)
    return opened(url, cache, length=length)


@pytest.fixture
def small(tmp_path: pathlib.Path) -> Corpus:
    return corpus(f"file://{tmp_path}/corpus", tmp_path)


def samples(corpus: Corpus) -> Batch:
    return batch([corpus.sample(number) for number in range(corpus.samples)])


def test_windows_hold_every_token_across_shards(small: Corpus) -> None:
    assert (len(small.index.shards), small.samples) == (3, 7)
    assert samples(small).tokens.flatten().tolist() == list(range(28))


def test_labels_positions_and_documents_end_with_a_document(small: Corpus) -> None:
    one = batch([small.sample(1)])  # ids 4 | 5 | 6 7
    assert one.tokens.tolist() == [[4, 5, 6, 7]]
    assert one.labels.tolist() == [[-100, -100, 7, 8]]
    assert one.positions.tolist() == [[0, 0, 0, 1]]
    assert one.documents.tolist() == [[0, 1, 2, 2]]


def test_a_document_that_a_window_cuts_goes_on_in_the_next_from_position_0(small: Corpus) -> None:
    four, five = batch([small.sample(4)]), batch([small.sample(5)])  # 16 17 18 19 | 20 21 22 23 of one document
    assert (four.labels[0, -1].item(), five.tokens[0, 0].item()) == (20, 20)
    assert five.positions.tolist() == [[0, 1, 2, 3]]


def test_a_document_that_ends_with_the_window_masks_its_last_label(tmp_path: pathlib.Path) -> None:
    first = samples(corpus(f"file://{tmp_path}", tmp_path, length=14))
    assert (first.tokens[0, 0].item(), first.labels[0, -1].item()) == (0, -100)


@few
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30),
    at_least=st.integers(1, 8),
    at_most=st.one_of(st.none(), st.integers(1, 12)),
)
def test_a_length_rule_keeps_whole_documents_in_order(lengths: list[int], at_least: int, at_most: int | None) -> None:
    ends = np.array(list(accumulate(lengths)), dtype=np.int64)
    kept = Kept(ends, at_least=at_least, at_most=at_most)
    documents = [range(end - length, end) for end, length in zip(ends.tolist(), lengths, strict=True)]
    wanted = [d for d in documents if at_least <= len(d) and (at_most is None or len(d) <= at_most)]
    read = [place for span in kept.spans(0, kept.tokens) for place in range(*span)]
    assert read == [place for document in wanted for place in document]
    assert kept.ends.tolist() == list(accumulate(map(len, wanted)))
    assert [p for span in kept.spans(kept.tokens // 2, kept.tokens) for p in range(*span)] == read[kept.tokens // 2 :]


@pytest.mark.parametrize(("vocab", "dtype"), [(2048, "uint16"), (65536, "uint16"), (92544, "uint32")])
def test_ids_are_as_wide_as_the_vocabulary_needs(vocab: int, dtype: str, tmp_path: pathlib.Path) -> None:
    store = storage.open_store(f"file://{tmp_path}")
    assert packing.write(store, [[1, vocab - 1]], vocab=vocab, tokenizer_sha256="t").dtype == dtype
    assert samples(opened(store.url, tmp_path, length=1)).labels.tolist() == [[vocab - 1]]


def test_shards_of_s3_are_downloaded_once(s3: servers.S3Server, tmp_path: pathlib.Path) -> None:
    url = s3.url(f"data/{uuid.uuid4()}")
    first = corpus(url, tmp_path)
    storage.open_store(url).delete([shard.tokens_name for shard in first.index.shards])
    assert samples(opened(url, tmp_path)).tokens.equal(samples(first).tokens)


def test_a_damaged_shard_of_s3_is_refused(s3: servers.S3Server, tmp_path: pathlib.Path) -> None:
    url = s3.url(f"data/{uuid.uuid4()}")
    index = corpus(url, tmp_path / "a").index
    storage.open_store(url).put(index.shards[0].tokens_name, [memoryview(b"\0" * 2 * index.shards[0].tokens)])
    with pytest.raises(DataRefused, match="has another SHA-256"):
        opened(url, tmp_path / "b")


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
        opened(f"file://{tmp_path}", tmp_path)
    assert refused.value.exit_code is ExitCode.DATA


def test_a_corpus_shorter_than_a_sample_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataRefused, match="has 30 tokens, fewer than one sample of 30"):
        corpus(f"file://{tmp_path}", tmp_path, length=30)


def test_document_ends_are_an_array_without_pickle(small: Corpus, tmp_path: pathlib.Path) -> None:
    ends = np.load(tmp_path / "corpus" / small.index.shards[0].ends_name, allow_pickle=False)
    assert ends.tolist() == [5, 6]
