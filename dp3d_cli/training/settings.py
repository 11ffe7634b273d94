"""Settings dataclasses from the mappings of training presets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from dp3d_cli.core.errors import UsageError

SettingsT = TypeVar("SettingsT")


def build(kind: type[SettingsT], values: Mapping[str, object]) -> SettingsT:
    """A settings dataclass, checked.

    Raises:
        UsageError: an unknown key or a value of the wrong kind; the message names it.
    """
    known = getattr(kind, "__dataclass_fields__", {})
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(f"Unknown setting '{unknown[0]}'; {kind.__name__} has: {', '.join(known)}.")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise UsageError(f"Setting '{where}' is {problem['input']!r}: {problem['msg'].lower()}.") from error
