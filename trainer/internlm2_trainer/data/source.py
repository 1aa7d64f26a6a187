"""The corpora of a stage as the training loop reads them: this rank's samples of a micro-step."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from internlm2_spec.config import DataSource, Stage
from internlm2_spec.contract import ENV_CACHE_DIR
from internlm2_trainer.data import order, windows
from internlm2_trainer.data.mixture import Mixture
from internlm2_trainer.data.windows import Corpus, DataRefused


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Samples by place: (batch, data rank, micro-step) and the seed decide, nothing else.

    A source starts over, in another order, when each of its samples has come once.
    """

    corpora: tuple[Corpus, ...]
    mixture: Mixture
    seed: int
    global_samples: int
    micro_batch_samples: int

    @classmethod
    def open(cls, stage: Stage) -> "CorpusSource":
        """Open the stage's corpora; shards from S3 are fetched once per node into a cache folder.

        Raises:
            DataRefused: see `open_corpus`; or two corpora whose ids mean different things.
        """
        cache = Path(os.environ.get(ENV_CACHE_DIR) or Path(tempfile.gettempdir()) / "internlm2-corpus")
        sources = stage.data.mixture
        length = stage.sequence_length
        corpora = [windows.open_corpus(source, sequence_length=length, cache_dir=cache) for source in sources]
        _refuse_two_tokenizers(sources, corpora)
        mixture = Mixture([source.weight for source in sources])
        return cls(tuple(corpora), mixture, stage.seed, stage.global_batch_tokens // length, stage.parallel.micro_batch)

    def micro_batch(self, batch: int, *, data_rank: int, data_world: int, micro_step: int) -> windows.Batch:
        """Return one data rank's part of a micro-step of the `batch`th global batch."""
        places = order.assign(
            self.global_samples, data_rank=data_rank, data_world=data_world,
            micro_step=micro_step, micro_batch=self.micro_batch_samples,
        )  # fmt: skip
        return self.samples(batch * self.global_samples + places)

    def samples(self, positions: order.Indices) -> windows.Batch:
        """Return the samples at positions of the endless stream."""
        sources, places = self.mixture.places(positions)
        numbers = np.empty_like(places)
        for source in np.unique(sources):
            mine = sources == source
            # Sources of one size would otherwise go through their samples in one order.
            seed = self.seed + (int(source) << 32)
            numbers[mine] = order.sample_at(places[mine], count=self.corpora[source].samples, seed=seed)
        return windows.batch([self.corpora[s].sample(int(n)) for s, n in zip(sources, numbers, strict=True)])


def _refuse_two_tokenizers(sources: Sequence[DataSource], corpora: Sequence[Corpus]) -> None:
    first = corpora[0].index.tokenizer_sha256
    for source, corpus in zip(sources, corpora, strict=True):
        if corpus.index.tokenizer_sha256 != first:
            wrong = f"was tokenized with another model than {sources[0].url}"
            raise DataRefused(source.url, wrong=wrong, right="run `tokenize` on both with the same --tokenizer")
