"""TOML into frozen dataclasses: every key known, every value of its type, or a clear refusal.

`read_config` reads a file, `build` makes a dataclass of what was read. The dataclass is the
only description of the format; a key that it does not have is refused with the nearest one
that it has.
"""

import dataclasses
import difflib
import math
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from wsi_umedpt.errors import ConfigError

T = TypeVar("T")


def read_config(path: Path, made: type[T]) -> T:
    """Read a TOML file as the dataclass `made`.

    Raises
    ------
    ConfigError
        If the file is missing or no TOML, or a key or value is not what `made` takes.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from None
    return build(made, content, str(path))


def build(made: type[T], content: dict[str, Any], where: str) -> T:
    """Make a dataclass of a table, checking every key and value; `where` names it in errors."""
    known = {field.name: field for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(made)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
            raise ConfigError(f"{where}: there is no key {key!r}; {hint}")
    absent = [name for name, field in known.items() if name not in content and _required(field)]
    if absent:
        raise ConfigError(f"{where}: missing {', '.join(absent)}")
    values = {key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()}
    try:
        return made(**values)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from None


def build_known(made: type[T], content: dict[str, Any], where: str) -> T:
    """`build` of the keys that `made` has: for what is one part of a file among others."""
    names = {field.name for field in dataclasses.fields(made)}  # type: ignore[arg-type]
    return build(made, {key: value for key, value in content.items() if key in names}, where)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, or a refusal."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        return _value(next(a for a in arguments if a is not type(None)), value, where)
    if origin is typing.Literal:
        # By kind too: to Python, 1, 1.0 and True are equal.
        if not any(type(value) is type(a) and value == a for a in arguments):
            raise ConfigError(f"{where} is one of {', '.join(map(str, arguments))}, got {value!r:.100}")
        return value
    if origin is tuple:
        return _tuple(arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is a table, got {value!r:.200}")
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is a table, got {value!r:.200}")
        return build(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is a number that is too large") from None
    if hint is Path and isinstance(value, str):
        return Path(value)
    if (
        not isinstance(value, hint)
        or (isinstance(value, bool) and hint is not bool)
        or (isinstance(value, float) and not math.isfinite(value))  # TOML can say nan and inf
    ):
        raise ConfigError(f"{where} is {_named(hint)}, got {value!r:.200}")
    return value


def _tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise ConfigError(f"{where} is a list, got {value!r:.200}")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ConfigError(f"{where} takes {len(arguments)} values, got {value!r:.200}")
    return tuple(
        _value(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _named(hint: Any) -> str:
    return {str: "a text", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}.get(
        hint, str(hint)
    )
