"""The parameters of an endpoint as a table: the check of each value, and what the built-in engine cannot do.

The checks raise OpenAI's errors for a value of a wrong type, outside its range or outside its choices. OpenAI treats
null like a missing parameter, so no check gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from batch_assets.local_api.wire import errors
from batch_assets.local_api.wire.errors import ApiError

Check = Callable[[str, Any], object]
"""Takes the path of a parameter and its value, which is not null. Raises ApiError."""

ENGINE = "the built-in engine of the local Batch API"


@dataclass(frozen=True)
class Parameter:
    """A parameter that OpenAI has.

    check: of type and choices, for every engine whose requests are read here.
    refuse: raises ApiError for what the built-in engine cannot honour, so that no client waits for an effect that does
    not come. None if the engine honours every value, or the value has no effect on an answer.
    """

    check: Check
    refuse: Check | None = None


Table = Mapping[str, Parameter]


def check_parameters(body: Mapping[str, Any], table: Table, unknown: Callable[[str], ApiError]) -> None:
    """Raises ApiError for the first parameter that is unknown (with the error of `unknown`) or has a wrong value."""
    for name, value in body.items():
        parameter = table.get(name)
        if parameter is None:
            raise unknown(name)
        if value is not None:
            parameter.check(name, value)


def refuse_unsupported(body: Mapping[str, Any], table: Table, honoured: Collection[str] = ()) -> None:
    """Raises ApiError for the first parameter, in the order of the table, that the engine cannot honour.

    The body has been checked. honoured: the parameters that this engine honours, unlike the engines without a model.
    """
    refusals = {
        name: refuse
        for name, value in body.items()
        if value is not None and (refuse := table[name].refuse) is not None and name not in honoured
    }
    for name in sorted(refusals, key=list(table).index) if refusals else ():
        refusals[name](name, body[name])


def only(*supported: object) -> Check:
    """Refuses every value but those that change nothing."""

    def refuse(param: str, value: Any) -> None:
        # Python has True == 1, and JSON has not.
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in supported):
            raise unsupported(param, value, supported)

    return refuse


def only_members(**supported: Sequence[object]) -> Check:
    """Refuses members of an object in the same way."""
    refusals = {name: only(*values) for name, values in supported.items()}

    def refuse(param: str, value: Any) -> None:
        for name, refuse_member in refusals.items():
            if value.get(name) is not None:
                refuse_member(f"{param}.{name}", value[name])

    return refuse


def without(item: str) -> Check:
    """Refuses an array with this item."""

    def refuse(param: str, value: Any) -> None:
        if item in value:
            raise unsupported(param, item, ("",))

    return refuse


def unsupported(param: str, value: object, supported: Sequence[object] = ()) -> ApiError:
    """OpenAI's error for a model that lacks a feature, with the engine's name in place of the model's."""
    if any(isinstance(other, str | int) for other in supported) and isinstance(value, str | int):
        shown = str(value).lower() if isinstance(value, bool) else f"'{value}'" if isinstance(value, str) else value
        message = f"Unsupported value: '{param}' does not support {shown} with {ENGINE}."
        return ApiError(400, message, param=param, code="unsupported_value")
    message = f"Unsupported parameter: '{param}' is not supported with {ENGINE}."
    return ApiError(400, message, param=param, code="unsupported_parameter")


def unchecked(_: str, __: Any) -> None:
    """For a parameter whose own reader checks it."""


def boolean(param: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise errors.invalid_type(param, "a boolean", value)


def string(maximum_length: int | None = None) -> Check:
    return lambda param, value: errors.check_string(param, value, maximum_length=maximum_length)


def integer(minimum: int | None = None, maximum: int | None = None) -> Check:
    return lambda param, value: errors.check_integer(param, value, minimum=minimum, maximum=maximum)


def decimal(minimum: float, maximum: float) -> Check:
    """A number in the range, both ends included."""

    def check(param: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise errors.invalid_type(param, "a decimal", value)
        if error := errors.out_of_range(param, "decimal", value, minimum=minimum, maximum=maximum):
            raise error

    return check


def choice(*values: str) -> Check:
    def check(param: str, value: Any) -> None:
        if errors.check_string(param, value) not in values:
            raise errors.invalid_value(param, value, values)

    return check


def array(of: Check, expected: str, *, minimum: int = 0, maximum: int | None = None) -> Check:
    """An array whose items pass a check. expected: such as "an array of strings"."""

    def check(param: str, value: Any) -> None:
        if not isinstance(value, list):
            raise errors.invalid_type(param, expected, value)
        if error := errors.array_length(param, len(value), minimum=minimum, maximum=maximum):
            raise error
        for index, item in enumerate(value):
            of(f"{param}[{index}]", item)

    return check


def mapping(of: Check) -> Check:
    """An object with any keys, whose values pass a check."""

    def check(param: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise errors.invalid_type(param, "an object", value)
        for name, member in value.items():
            of(f"{param}.{name}", member)

    return check


def an_object(param: str, value: Any) -> None:
    """Any object."""
    if not isinstance(value, dict):
        raise errors.invalid_type(param, "an object", value)


def members(required: Sequence[str] = (), **checks: Check) -> Check:
    """An object that has no other keys than these. A member that is null counts as missing."""

    def check(param: str, value: Any) -> None:
        an_object(param, value)
        for name in required:
            if value.get(name) is None:
                raise errors.missing_parameter(f"{param}.{name}")
        for name, member in value.items():
            if name not in checks:
                raise errors.unknown_parameter(f"{param}.{name}")
            if member is not None:
                checks[name](f"{param}.{name}", member)

    return check


def either(expected: str, **checks: Check) -> Check:
    """The check for the type of the value: `str`, `list` or `dict`. expected: such as "one of a string or object"."""

    def check(param: str, value: Any) -> None:
        of = checks.get(type(value).__name__)
        if of is None:
            raise errors.invalid_type(param, expected, value)
        of(param, value)

    return check
