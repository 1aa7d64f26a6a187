"""spec.model: which InternLM2 is trained."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from internlm2_operator.api.base import ApiModel, Rule
from internlm2_spec import presets
from internlm2_spec.config import Model, Refused, camel

PresetName = Literal["internlm2-tiny", "internlm2-1.8b", "internlm2-7b", "internlm2-20b"]


class ModelSizes(ApiModel):
    """Sizes of a model that is not a released one."""

    layers: int = Field(ge=1, le=256, description="layers is the number of transformer blocks.")
    hidden: int = Field(ge=2, le=65536, description="hidden is the width of the residual stream.")
    heads: int = Field(ge=1, le=512, description="heads is the number of query heads; head size is hidden / heads.")
    kv_heads: int = Field(ge=1, le=512, description="kvHeads is the number of key and value heads; it divides heads.")
    ffn: int = Field(ge=1, le=262144, description="ffn is the inner width of the feed-forward network.")
    vocab: int = Field(ge=8, le=1048576, description="vocab is the number of rows of the embedding and of the head.")

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.hidden % (2 * self.heads) == 0",
            "model.config.hidden {self.hidden} is not divisible by 2 x heads {self.heads};"
            " use a multiple of {2 * self.heads}, so that the head size is even (rotary pairs)",
            at=".hidden",
        ),
        Rule(
            "self.heads % self.kvHeads == 0",
            "model.config.kvHeads {self.kvHeads} does not divide heads {self.heads};"
            " use 1 or another divisor of {self.heads}",
            at=".kvHeads",
        ),
    )


class ModelSpec(ApiModel):
    """model names a released InternLM2 or gives the sizes of another one. It cannot change."""

    preset: PresetName | None = Field(
        default=None, description="preset is the name of a released model. Exactly one of preset and config is set."
    )
    config: ModelSizes | None = Field(
        default=None, description="config gives the sizes inline. Exactly one of preset and config is set."
    )
    init_from: str | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        pattern="^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="initFrom is the stage under checkpoint.url whose weights the first stage starts from, as"
        " `internlm2_trainer checkpoint import` made it. Without it they are random.",
    )

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.preset) != has(self.config)",
            "model has {has(self.preset) ? 'both preset and config' : 'neither preset nor config'};"
            " set exactly one, for example preset: internlm2-7b",
        ),
        Rule(
            "self == oldSelf",
            "model {has(self.preset) ? self.preset : 'config'} differs from the model that the job was made with,"
            " {has(oldSelf.preset) ? oldSelf.preset : 'config'}; make a new job for another model",
        ),
    )

    def resolved(self) -> Model:
        """Return the sizes, whichever way they were given.

        Raises:
            Refused: neither or both were given, which the API server does not let through.
        """
        if self.preset and not self.config:
            return presets.PRESETS[self.preset]
        if self.config and not self.preset:
            return Model(**self.config.model_dump())
        raise Refused("model", wrong="needs exactly one of preset and config", right="set preset or config")


def size_in_cel(name: str) -> str:
    """Return CEL, for use on the spec, for one size of the model: of `config`, else of the preset; 0 if neither."""
    field = camel(name)
    chain = "0"
    for preset, model in sorted(presets.PRESETS.items()):
        value: Any = getattr(model, name)
        chain = f"(self.model.preset == '{preset}' ? {value} : {chain})"
    return f"(has(self.model.config) ? self.model.config.{field} : has(self.model.preset) ? {chain} : 0)"
