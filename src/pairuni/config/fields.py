"""How a stage's options are declared: a frozen dataclass per stage, with each constraint on its field.

`@options("group")` makes one. pydantic checks types and constraints without converting anything, and a mistake is an
InputError that names the field. Rules between fields stand in `__post_init__`. Imports without torch.
"""

from collections.abc import Callable
from dataclasses import field, fields
from functools import wraps
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass

from pairuni.errors import InputError
from pairuni.validation import input_error

T = TypeVar("T")


def as_list(value: Any) -> Any:
    """The values of a list that may be written a,b. What is neither text nor a sequence stays as it is."""
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    if isinstance(value, list | tuple):
        return [each.strip() if isinstance(each, str) else each for each in value if each != ""]
    return value


Positive = Annotated[int, Field(strict=True, gt=0)]
Count = Annotated[int, Field(strict=True, ge=0)]
PositiveNumber = Annotated[float, Field(strict=True, gt=0)]
Amount = Annotated[float, Field(strict=True, ge=0)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Flag = Annotated[bool, Field(strict=True)]
Guidance = Annotated[float, Field(strict=True, ge=1)]
ListOf = Annotated[list[T], BeforeValidator(as_list)]
"""A list that may also be written a,b."""
Precision = Literal["auto", "fp32", "bf16"]
Extractor = Literal["resnet50", "dinov3", "clip", "pe", "colour_hog", "shapes_content"]


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def options(group: str = "") -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass whose constructor raises InputError.

    Args:
        group: the option under which most commands have this class; it stands before the fields in messages of the
            constructor. A file or command line names its own group.
    """

    def decorate(cls: type[T]) -> type[T]:
        made: Any = dataclass(frozen=True, config=ConfigDict(extra="forbid"))(cls)
        validate = made.__init__

        @wraps(validate)
        def construct(self: Any, *values: Any, **named: Any) -> None:
            try:
                validate(self, *values, **named)
            except ValidationError as err:
                names = [each.name for each in fields(made)]
                raise input_error(err, prefix=group, names=names, indices=False) from None

        made.__init__ = construct
        return made

    return decorate


def bare(kind: Any) -> Any:
    """A field's type without its constraints."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def require(condition: object, field_name: str, message: str) -> None:
    """Raises InputError for a field where a rule between fields does not hold."""
    if not condition:
        raise InputError(message, field=field_name)
