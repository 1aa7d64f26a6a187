"""What a model computes beside its weights: written into every checkpoint, so that one can leave on its own."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from internlm2_spec.config import Model, Refused, Stage, camel

EXTRA_KEY: Final = "architecture"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes, positions and head of a model.

    `max_positions` is the sequence length, in tokens, that it was trained at; beyond it `dynamic_ntk`, a
    factor, stretches the rotary base. A reward model gives its score at `reward_token`; None for a language model.
    """

    model: Model
    rope_base: float
    max_positions: int
    dynamic_ntk: float | None = None
    reward_token: int | None = None

    @classmethod
    def of(cls, stage: Stage) -> "Architecture":
        """Return what a stage trains."""
        return cls(stage.model, stage.rope_base, stage.sequence_length)

    def check(self, sizes: Model, path: str) -> None:
        """Compare with the sizes that a stage trains, because some of them leave every tensor's shape the same.

        Raises:
            Refused: one differs.
        """
        for field in fields(Model):
            if (has := getattr(self.model, field.name)) != (wanted := getattr(sizes, field.name)):
                wrong = f"was saved with {camel(field.name)} {has}, and the model has {wanted}"
                raise Refused(path, wrong=wrong, right="start from a checkpoint of the same model")

    def to_extra(self) -> dict[str, Any]:
        """Return the entry for a manifest's `extra`."""
        return {EXTRA_KEY: asdict(self)}

    @classmethod
    def from_extra(cls, extra: Mapping[str, Any], path: str) -> "Architecture":
        """Read the entry of a manifest's `extra`; `path` names the checkpoint in the refusal.

        Raises:
            Refused: there is none, or one of another version.
        """
        try:
            saved = dict(extra[EXTRA_KEY])
            return cls(**saved | {"model": Model(**saved["model"])})
        except (KeyError, TypeError, ValueError):
            wrong = "does not say which model it is of"
            raise Refused(path, wrong=wrong, right="save it again with this version of the trainer") from None
