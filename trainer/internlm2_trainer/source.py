"""A corpus as the training loop reads it: this rank's samples of a micro-step."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from internlm2_spec.config import Stage
from internlm2_spec.contract import ENV_CACHE_DIR
from internlm2_trainer import data, order


@dataclass(frozen=True, slots=True)
class CorpusSource:
    """Samples by place: (step, data rank, micro-step) and the seed decide, nothing else."""

    corpus: data.Corpus
    global_samples: int
    micro_batch_samples: int

    @classmethod
    def open(cls, stage: Stage) -> "CorpusSource":
        """Open the stage's corpus; shards from S3 are fetched once per node into a cache folder."""
        cache = Path(os.environ.get(ENV_CACHE_DIR) or Path(tempfile.gettempdir()) / "internlm2-corpus")
        samples = stage.global_batch_tokens // stage.sequence_length
        corpus = data.open_corpus(
            stage.data.url, sequence_length=stage.sequence_length, global_samples=samples, seed=stage.seed,
            cache_dir=cache,
        )  # fmt: skip
        return cls(corpus, samples, stage.parallel.micro_batch)

    def micro_batch(self, step: int, *, data_rank: int, data_world: int, micro_step: int) -> data.Batch:
        places = order.assign(
            self.global_samples, data_rank=data_rank, data_world=data_world,
            micro_step=micro_step, micro_batch=self.micro_batch_samples,
        )  # fmt: skip
        return self.corpus.batch(step, places)
