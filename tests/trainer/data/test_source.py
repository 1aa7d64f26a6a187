"""What a stage trains on: weights kept, each sample once a pass, the same at any number of ranks."""

import pathlib
from collections import Counter

import pytest
import torch

from internlm2_spec.config import Checkpoint, Data, DataSource, Parallel, Stage
from internlm2_trainer import storage
from internlm2_trainer.data import packing
from internlm2_trainer.data.source import CorpusSource
from internlm2_trainer.data.windows import DataRefused
from tests.trainer import parity

LENGTH, GLOBAL_SAMPLES = 8, 12


def write(folder: pathlib.Path, name: str, lengths: list[int], *, first: int, tokenizer: str = "t") -> str:
    """Write documents of these lengths, whose ids count up from `first`, and return the corpus's URL."""
    url, documents = f"file://{folder}/{name}", []
    for length in lengths:
        documents.append(list(range(first, first + length)))
        first += length
    packing.write(storage.open_store(url), documents, vocab=60000, tokenizer_sha256=tokenizer, shard_tokens=50)
    return url


def opened(data: Data, *, micro_batch: int = 1, seed: int = 1024, length: int = LENGTH) -> CorpusSource:
    return CorpusSource.open(
        Stage(
            name="test", model=parity.SIZES, data=data, checkpoint=Checkpoint("file:///nowhere"),
            sequence_length=length, global_batch_tokens=GLOBAL_SAMPLES * length, steps=1, seed=seed,
            parallel=Parallel(micro_batch=micro_batch),
        )
    )  # fmt: skip


@pytest.fixture
def mixed(tmp_path: pathlib.Path) -> Data:
    """Two sources: 20 samples with ids below 1000 at weight 2, 7 samples with ids above at weight 1."""
    return Data(
        sources=(
            DataSource(write(tmp_path, "a", [40, 1, 20, 100], first=0), weight=2),
            DataSource(write(tmp_path, "b", [57], first=1000), weight=1),
        )
    )


def firsts(source: CorpusSource, batch: int, *, world: int = 1, micro_batch: int = 1) -> list[int]:
    """Return the first token of each sample of a global batch, as that many data ranks read it."""
    found: list[int] = []
    for micro_step in range(GLOBAL_SAMPLES // (world * micro_batch)):
        for rank in range(world):
            part = source.micro_batch(batch, data_rank=rank, data_world=world, micro_step=micro_step)
            found += part.tokens[:, 0].tolist()
    return found


@pytest.mark.parametrize(("world", "micro_batch"), [(1, 12), (2, 3), (3, 1), (4, 3), (12, 1)])
def test_a_batch_has_the_same_samples_at_any_world_size(mixed: Data, world: int, micro_batch: int) -> None:
    alone, many = opened(mixed), opened(mixed, micro_batch=micro_batch)
    for batch in (0, 1, 5):
        assert sorted(firsts(many, batch, world=world, micro_batch=micro_batch)) == sorted(firsts(alone, batch))


def test_each_sample_comes_once_a_pass_whatever_the_world_size_was_on_the_way(mixed: Data) -> None:
    worlds = (1, 4, 2, 12, 3, 6, 1, 4, 2, 12)  # a new process at each: nothing is carried from batch to batch
    seen = [first for batch, world in enumerate(worlds) for first in firsts(opened(mixed), batch, world=world)]
    a, b = [f for f in seen if f < 1000], [f for f in seen if f >= 1000]
    assert (len(a), len(b)) == (80, 40)
    # World sizes change the order within a batch only, so that passes are told by counts: 4 of 20, 5 of 7 and a part.
    assert Counter(a) == dict.fromkeys(range(0, 160, LENGTH), 4)
    assert set(Counter(b).values()) == {5, 6}


def test_a_pass_reads_a_source_once_and_the_next_in_another_order(mixed: Data) -> None:
    source = opened(mixed)
    stream = [first for batch in range(10) for first in firsts(source, batch)]
    passes = [[f for f in stream if f < 1000][n * 20 : n * 20 + 20] for n in range(4)]
    assert all(sorted(one) == list(range(0, 160, LENGTH)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_every_batch_has_its_share_of_each_source(mixed: Data) -> None:
    source = opened(mixed)
    for batch in range(20):
        assert sum(first < 1000 for first in firsts(source, batch)) == 8


def test_the_seed_decides_the_order(mixed: Data) -> None:
    one, same, other = (opened(mixed, seed=seed) for seed in (1, 1, 2))
    assert firsts(one, 3) == firsts(same, 3)
    assert firsts(one, 3) != firsts(other, 3)


def test_sources_of_one_size_do_not_go_in_step(tmp_path: pathlib.Path) -> None:
    urls = [write(tmp_path, name, [161], first=first) for name, first in (("a", 0), ("b", 1000))]
    stream = firsts(opened(Data(sources=tuple(map(DataSource, urls)))), 0)
    a, b = ([first % 1000 for first in stream if first // 1000 == source] for source in (0, 1))
    assert a != b


def test_half_of_a_long_stage_stays_short(tmp_path: pathlib.Path) -> None:
    url = write(tmp_path, "mixed", [5, 90, 7, 3, 70, 6, 15, 4, 8, 60, 9, 5, 6], first=0)
    short = DataSource(url, max_document_tokens=9)
    long = DataSource(url, min_document_tokens=10)
    source = opened(Data(sources=(short, long)), length=32)
    batch = source.micro_batch(0, data_rank=0, data_world=1, micro_step=0)
    lengths = [longest_run(source, n) for n in range(GLOBAL_SAMPLES)]
    assert batch.tokens.shape == (1, 32)
    assert sum(length <= 9 for length in lengths) == GLOBAL_SAMPLES // 2
    assert sum(length >= 10 for length in lengths) == GLOBAL_SAMPLES // 2


def longest_run(source: CorpusSource, sample: int) -> int:
    """Return the tokens of the longest document part in a sample; positions must restart with each document."""
    batch = source.micro_batch(0, data_rank=0, data_world=1, micro_step=sample)
    sizes = torch.bincount(batch.documents[0])
    assert batch.positions[0].tolist() == [place for size in sizes.tolist() for place in range(size)]
    return int(sizes.max())


def test_corpora_of_two_tokenizers_are_refused(tmp_path: pathlib.Path) -> None:
    a, b = (write(tmp_path, name, [50], first=0, tokenizer=name) for name in ("a", "b"))
    with pytest.raises(DataRefused, match=r"b: was tokenized with another model than .*a; run `tokenize` on both"):
        opened(Data(sources=(DataSource(a), DataSource(b))))


def test_a_length_rule_that_leaves_too_little_is_refused_with_the_counts(tmp_path: pathlib.Path) -> None:
    url = write(tmp_path, "a", [5, 90, 6], first=0)
    with pytest.raises(DataRefused, match=r"has 5 tokens in documents of 1 to 5 tokens \(1 of 3\), fewer than one"):
        opened(Data(sources=(DataSource(url, max_document_tokens=5),)))
