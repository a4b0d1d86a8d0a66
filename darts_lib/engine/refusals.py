"""What no setting may be, and how a message shows a value: on one line, short, whatever it is."""

import difflib
import reprlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = _SHORT.maxdict = 20
_SHORT.maxlevel = 4

SMALLEST, LARGEST = 1.2e-38, 3.4e38  # of float32, in which runs compute
BOUNDS = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text",
}
"""What pydantic's kinds of problem mean, in words that follow the name of a setting."""


class SettingsError(ValueError):
    """A setting or an input that cannot be used; one line that names it and the way out."""

    def _render_traceback_(self) -> list[str]:
        """Show the line alone in a notebook: the way out is not in the library's code."""
        return [f"{type(self).__name__}: {self}"]


def show(value: object) -> str:
    """Return a short repr of a value, however long or deep it is, on one line."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # of an integer of more than 4300 digits, or of a class of the caller
        return "a huge number" if isinstance(value, int) else f"a {type(value).__name__}"
    if len(text.splitlines()) > 1:  # a tensor or an array
        text = " ".join(text.split())
    return text if len(text) <= 200 else text[:200] + "..."


def one_line(error: Exception) -> str:
    """Return what an error says, on one line, or its kind where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def nearest(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return the known name that was perhaps meant, capitals aside, or an empty text."""
    table = {each.lower(): each for each in known}
    near = difflib.get_close_matches(name.lower(), table, n=1, cutoff=cutoff)
    return table[near[0]] if near else ""


def unknown(what: str, name: str, known: Collection[str]) -> str:
    """Say that a name is not known, and which was meant or which there are."""
    near = nearest(name, known)
    hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}"
    return f"unknown {what} {show(name)}; {hint}"


def is_unset(value: object) -> bool:
    """Say whether a value of the parameter cell stands for the scale's own."""
    plain = isinstance(value, str | int | float | None) and not isinstance(value, bool)
    return plain and value in ("", 0, "auto", None)


class StrictModel(BaseModel):
    """Settings that refuse unknown names, numbers that are none, and what cannot be used."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth(cls, value: object, info: ValidationInfo) -> object:
        """Refuse True for a number, which pydantic would take for 1."""
        kind = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and kind in (int, float):
            raise ValueError("a number is wanted here, not true or false")
        return value

    @field_validator("*")
    @classmethod
    def _refuse_unusable(cls, value: object, info: ValidationInfo) -> object:
        """Refuse what torch or the system could not take, before it fails there without a name."""
        if isinstance(value, int) and abs(value) >= 2**31:
            raise ValueError(f"the largest number is {2**31 - 1}")
        if isinstance(value, str) and "\0" in value:
            raise ValueError("a text has no NUL character")
        rules = cls.model_fields[str(info.field_name)].metadata
        least = SMALLEST if any(getattr(rule, "gt", None) == 0 for rule in rules) else 0
        if isinstance(value, float) and not least <= abs(value) <= LARGEST:
            raise ValueError(f"runs compute in float32, from {SMALLEST} to {LARGEST}")
        return value

    @classmethod
    def create(cls, /, **given: object) -> Self:
        """Build the settings; raise `SettingsError` with one readable line if it is wrong."""
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError("; ".join(map(cls._told, error.errors()))) from None

    @classmethod
    def _told(cls, problem: Mapping[str, Any]) -> str:
        """Return one line for a problem that pydantic found: the setting, its value, the reason."""
        place = ".".join(str(part) for part in problem["loc"])
        message, value = str(problem["msg"]).removeprefix("Value error, "), show(problem["input"])
        if not place or (place in message and value in message):
            return message
        if problem["type"] in BOUNDS:
            message = BOUNDS[problem["type"]].format(**problem.get("ctx", {}))
        return f"{place}={value}: {message.replace('Input should be', 'must be')}"
