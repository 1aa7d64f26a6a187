"""What the API server would refuse, said without one: the schema and the CEL rules of the CRD, in its words.

The same structural schema that the CRD holds is walked, so a field or a rule that the API gains is judged here too.
Rules about a change (`oldSelf`) are left out: there is no older object.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cel

from internlm2_operator.api import crd
from internlm2_operator.cli import quantity

_TYPES: Final[Mapping[str, type | tuple[type, ...]]] = {
    "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
}  # fmt: skip
_OPEN: Final = "x-kubernetes-preserve-unknown-fields"

Schema = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """One refusal: the field as the user wrote it, and the words of the API server."""

    field: str
    message: str

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def judge(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """Return the manifest with its defaults, and everything that the API server would refuse of it.

    As there, rules are only asked of a manifest whose fields are all right.
    """
    schema = crd.definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    body: dict[str, Any] = _with_defaults(dict(manifest), schema)
    problems = tuple(_fields(body, schema, ""))
    return body, problems or tuple(_rules(body, schema, ""))


def _with_defaults(value: Any, schema: Schema) -> Any:
    """Return a value with the defaults of its schema, null taken as absent and whole numbers as numbers."""
    if isinstance(value, dict) and "properties" in schema:
        known = schema["properties"]
        filled = {key: child for key, child in value.items() if child is not None}
        filled |= {key: child["default"] for key, child in known.items() if key not in filled and "default" in child}
        return {key: _with_defaults(child, known.get(key, {})) for key, child in filled.items()}
    if isinstance(value, list) and "items" in schema:
        return [_with_defaults(child, schema["items"]) for child in value]
    if schema.get("type") == "number" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def _fields(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    """Yield what the structural schema refuses, depth first."""
    kind = schema.get("type", "")
    if schema.get("x-kubernetes-int-or-string") or not kind:
        return
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        yield Problem(path, f"Invalid value: {_shown(value)}: must be of type {kind}")
        return
    if "enum" in schema and value not in schema["enum"]:
        choices = ", ".join(map(_shown, schema["enum"]))
        yield Problem(path, f"Unsupported value: {_shown(value)}: supported values: {choices}")
    yield from (Problem(path, message) for message in _bounds(value, schema))
    match value:
        case dict():
            yield from _object(value, schema, path)
        case list():
            yield from _list(value, schema, path)


def _object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[Problem]:
    known, extra = schema.get("properties"), schema.get("additionalProperties")
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem(_join(path, name), "Required value")
    for key, child in value.items():
        if known is not None and key in known:
            yield from _fields(child, known[key], _join(path, key))
        elif isinstance(extra, Mapping):
            yield from _fields(child, extra, f"{path}[{key}]")
        elif known is not None and path and not schema.get(_OPEN):
            near = ", ".join(sorted(known))
            yield Problem(_join(path, key), f'unknown field "{_join(path, key)}"; use one of {near}')
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield Problem(path, f"Too many: {len(value)}: must have at most {schema['maxProperties']} items")


def _list(value: list[Any], schema: Schema, path: str) -> Iterator[Problem]:
    for number, child in enumerate(value):
        yield from _fields(child, schema["items"], f"{path}[{number}]")
    if "minItems" in schema and len(value) < schema["minItems"]:
        yield Problem(path, f"Invalid value: {len(value)}: should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield Problem(path, f"Too many: {len(value)}: must have at most {schema['maxItems']} items")


def _bounds(value: Any, schema: Schema) -> Iterator[str]:
    """Yield what a number or a text is too much or too little of."""
    if isinstance(value, str):
        if "minLength" in schema and len(value) < schema["minLength"]:
            yield f"Invalid value: {_shown(value)}: should be at least {schema['minLength']} chars long"
        if "maxLength" in schema and len(value) > schema["maxLength"]:
            yield f"Too long: may not be more than {schema['maxLength']} bytes"
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"Invalid value: {_shown(value)}: should match '{schema['pattern']}'"
    elif isinstance(value, int | float):
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is not None and (value <= low if schema.get("exclusiveMinimum") else value < low):
            or_equal = "" if schema.get("exclusiveMinimum") else "or equal to "
            yield f"Invalid value: {value}: should be greater than {or_equal}{low}"
        if high is not None and (value >= high if schema.get("exclusiveMaximum") else value > high):
            or_equal = "" if schema.get("exclusiveMaximum") else "or equal to "
            yield f"Invalid value: {value}: should be less than {or_equal}{high}"


def _rules(value: Any, schema: Schema, path: str) -> Iterator[Problem]:
    """Yield what the CEL rules refuse, outermost first."""
    for rule in schema.get("x-kubernetes-validations", ()):
        if "oldSelf" not in rule["rule"] and (message := _broken(rule, value)) is not None:
            yield Problem(f"{path}{rule.get('fieldPath', '')}".lstrip("."), f"Invalid value: {message}")
    if isinstance(value, dict):
        for key, child in value.items():
            if (below := schema.get("properties", {}).get(key)) is not None:
                yield from _rules(child, below, _join(path, key))
    elif isinstance(value, list) and "items" in schema:
        for number, child in enumerate(value):
            yield from _rules(child, schema["items"], f"{path}[{number}]")


def _broken(rule: Mapping[str, str], value: Any) -> str | None:
    """Return the message of a rule that is false, None for one that holds."""
    known = cel.Context(variables={"self": value}, functions=_FUNCTIONS)
    if cel.evaluate(rule["rule"], known) is True:
        return None
    return str(cel.evaluate(rule["messageExpression"], known) if "messageExpression" in rule else rule["message"])


def _format(text: str, values: Sequence[Any]) -> str:
    """Fill in each %s, as Kubernetes' `format` does for what our messages hold."""
    return text % tuple(_plain(value) for value in values)


# Of Kubernetes' own libraries for CEL, what our rules use. A quantity stays its text until it is compared.
_FUNCTIONS: Final[dict[str, Callable[..., Any]]] = {
    "format": _format,
    "isQuantity": lambda text: quantity.parse(text) is not None,
    "quantity": str,
    "compareTo": quantity.compare,
}


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else _plain(value)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
