"""One reading of pydantic's errors: which field is wrong, and what it must be, in the words of this project."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pairuni.errors import InputError

_UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
_KINDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "string_unicode": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "dataclass_type": "a mapping",
    "model_attributes_type": "a mapping",
    "dataclass_exact_type": "a group of options",
}


def input_error(
    err: ValidationError,
    *,
    file: str | Path | None = None,
    line: int | None = None,
    prefix: str = "",
    names: Sequence[str] = (),
    indices: bool = True,
) -> InputError:
    """The first mistake as an InputError; an unknown field comes first, since others may be missing because of it.

    Args:
        prefix: the field in which the validated value stands.
        names: a constructor's arguments in order, for one that was given by position.
        indices: whether the field says which item of a list is wrong.
    """
    errors = err.errors(include_url=False)
    first = next((each for each in errors if each["type"] in _UNKNOWN), errors[0])
    place = list(first["loc"])
    if names and place and isinstance(place[0], int):
        place[0] = names[place[0]]
    parts = [prefix, *(str(part) for part in place if indices or isinstance(part, str))]
    inner = first.get("ctx", {}).get("error")
    if isinstance(inner, InputError):  # a rule between fields, which names the one that is wrong
        message, parts = inner.message, [*parts, inner.field or ""]
    else:
        message = _message(first)
    return InputError(message, file=file, line=line, field=".".join(filter(None, parts)) or None)


def _message(error: ErrorDetails) -> str:
    kind, limits = error["type"], error.get("ctx", {})
    given = f", not {_shown(error['input'])}"
    match kind:
        case "missing" | "missing_argument":
            return "is missing"
        case "unexpected_keyword_argument":
            return "unknown option"
        case "extra_forbidden":
            return "unknown field"
        case "greater_than":
            return ("must be positive" if limits["gt"] == 0 else f"must be above {limits['gt']:g}") + given
        case "greater_than_equal":
            return ("must not be negative" if limits["ge"] == 0 else f"must be at least {limits['ge']:g}") + given
        case "less_than":
            return f"must be below {limits['lt']:g}{given}"
        case "less_than_equal":
            return f"must be at most {limits['le']:g}{given}"
        case "multiple_of":
            return f"must be a multiple of {limits['multiple_of']:g}{given}"
        case "literal_error":
            return f"must be one of {limits['expected'].replace(chr(39), '').replace(' or ', ', ')}{given}"
        case "value_error":
            return str(limits["error"])
        case _ if kind in _KINDS:
            return f"must be {_KINDS[kind]}{given}"
    return error["msg"][:1].lower() + error["msg"][1:]


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
