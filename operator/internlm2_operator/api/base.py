"""What every model of the API shares: spelling, immutability, and rules that stand beside the fields."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, GetJsonSchemaHandler, PlainSerializer
from pydantic.config import JsonDict
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from internlm2_spec import config

# How the API server merges a list: replaced whole, or joined by a key.
ATOMIC: Final[JsonDict] = {"x-kubernetes-list-type": "atomic"}
BY_NAME: Final[JsonDict] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
SET: Final[JsonDict] = {"x-kubernetes-list-type": "set"}
BY_TYPE: Final[JsonDict] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}

# Names of most objects: the characters of a DNS name.
OBJECT_NAME: Final = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

_HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule (`x-kubernetes-validations`), evaluated by the API server.

    `check` is the CEL expression that must be true. `message` says field, value and cure; each hole
    `{expression}` in it is CEL, evaluated when the rule fails. `at` is the field that the error is
    reported on, relative to the object that holds the rule.
    """

    check: str
    message: str
    at: str = ""

    def to_schema(self) -> dict[str, str]:
        """Return the rule as the API server takes it."""
        schema = {"rule": self.check, "messageExpression": formatted(self.message)}
        return schema | ({"fieldPath": self.at} if self.at else {})


def formatted(message: str) -> str:
    """Turn text with `{expression}` holes into a CEL string expression.

    `format` and not `'a' + string(b)`: the API server takes the size of `string(int)` as unbounded and refuses the
    rule for its cost, while `format` counts as one (measured on 1.35; `format` is there from 1.29 on).
    """
    parts = _HOLE.split(message)
    text, holes = "%s".join(part.replace("%", "%%") for part in parts[::2]), ", ".join(parts[1::2])
    quoted = "'" + text.replace("'", "\\'") + "'"
    return f"{quoted}.format([{holes}])"


class ApiModel(BaseModel):
    """A frozen part of the custom resource: snake_case here, camelCase on the wire.

    Unknown fields are dropped, as the API server prunes them: an older operator reads newer objects.
    """

    model_config = ConfigDict(
        frozen=True, alias_generator=config.camel, validate_by_name=True, validate_by_alias=True, extra="ignore"
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    def to_object(self) -> dict[str, Any]:
        """Return the JSON object that the API server holds; fields that are None are left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.rules:
            body = handler.resolve_ref_schema(schema)
            body["x-kubernetes-validations"] = [rule.to_schema() for rule in cls.rules]
        return schema


def rfc3339(moment: datetime) -> str:
    """Return UTC with microseconds: the latencies of a fault are differences of these texts."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


Time = Annotated[AwareDatetime, PlainSerializer(rfc3339, return_type=str, when_used="json")]
