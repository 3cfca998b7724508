"""Typed configs: frozen dataclasses in, YAML in and out, command line with help; unknown keys refused by name."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import cattrs
import yaml

from clipmed.errors import ConfigError
from clipmed.files import write_text

T = TypeVar("T")


def from_dict(config_class: type[T], data: Any, where: str) -> T:
    """Build a config dataclass from plain data, strictly.

    Args:
        config_class: a dataclass, nested ones allowed.
        data: what YAML or JSON gave.
        where: the file or option that `data` came from, for messages.

    Raises:
        ConfigError: an unknown key (with the nearest valid one), a missing one, or a value of the wrong type.
    """
    _refuse_unknown_keys(config_class, data, where, ())
    try:
        return _CONVERTER.structure(data, config_class)
    except Exception as error:
        raise ConfigError(f"{where}: {'; '.join(_reasons(error))}") from error


def to_dict(config: Any) -> dict[str, Any]:
    """Return the config as plain data that YAML and JSON can hold."""
    plain = _CONVERTER.unstructure(config)
    if not isinstance(plain, dict):
        raise TypeError(f"a config must be a dataclass: got {type(config).__name__}")
    return plain


def load_yaml(config_class: type[T], path: Path) -> T:
    """Read a config dataclass from a YAML file; see `from_dict` for what is refused."""
    return from_dict(config_class, read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """Read plain data from a YAML file through the safe loader."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"no such file: {path}; give the path of a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not readable as YAML: {error}") from error


def save_yaml(config: Any, path: Path) -> None:
    """Write a config as YAML, every resolved value included, atomically."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True))


def parse_cli(config_class: type[T], args: Sequence[str], *, default: T | None, prog: str, description: str) -> T:
    """Parse command-line options into a config; `--help` shows every field with its comment and default.

    Exits with status 2 and a message on standard error when an option is unknown or out of range.
    """
    import tyro

    options: dict[str, Any] = {} if default is None else {"default": default}
    parsed: T = tyro.cli(config_class, args=list(args), prog=prog, description=description, **options)
    return parsed


def nearest(name: str, valid: Sequence[str]) -> str:
    """Return "; did you mean 'x'?" for the valid name nearest to `name`, or a full stop."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else "."


def _refuse_unknown_keys(annotation: Any, data: Any, where: str, path: tuple[str, ...]) -> None:
    if typing.get_origin(annotation) is dict and isinstance(data, dict):
        for key, value in data.items():
            _refuse_unknown_keys(typing.get_args(annotation)[1], value, where, (*path, str(key)))
        return
    config_class = _dataclass_in(annotation)
    if config_class is None:
        return
    items = data if isinstance(data, list) else [data]
    hints = typing.get_type_hints(config_class)
    names = [item.name for item in dataclasses.fields(config_class)]
    for item in items:
        if not isinstance(item, dict):
            continue
        for key, value in item.items():
            if key not in names:
                shown = ".".join((*path, str(key)))
                raise ConfigError(
                    f"{where}: unknown key {shown!r}{nearest(str(key), names)} Valid keys here: {', '.join(names)}"
                )
            _refuse_unknown_keys(hints[key], value, where, (*path, key))


def _dataclass_in(annotation: Any) -> Any:
    """Return the dataclass that an annotation such as `X`, `X | None` or `tuple[X, ...]` holds, or None."""
    if dataclasses.is_dataclass(annotation):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _dataclass_in(part))), None)


def _reasons(error: BaseException) -> list[str]:
    if isinstance(error, cattrs.BaseValidationError | ConfigError):
        if isinstance(error, ConfigError):
            return [str(error)]
        return [reason for part in error.exceptions for reason in _at(part)]
    return [str(error) or type(error).__name__]


def _at(error: BaseException) -> list[str]:
    """Prefix a nested error with the field that cattrs noted on it."""
    notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, cattrs.AttributeValidationNote)]
    prefix = f"{notes[0].name}: " if notes else ""
    return [prefix + reason for reason in _reasons(error)]


def _is_literal(annotation: Any) -> bool:
    origin: Any = typing.get_origin(annotation)
    return origin is Literal


def _structure_literal(value: Any, annotation: Any) -> Any:
    allowed = typing.get_args(annotation)
    if value not in allowed:
        near = nearest(str(value), [str(choice) for choice in allowed])
        raise ConfigError(f"got {value!r}; allowed: {', '.join(map(repr, allowed))}{near}")
    return value


def _structure_exactly(kind: type, accepted: tuple[type, ...]) -> Callable[[Any, Any], Any]:
    def structure(value: Any, _annotation: Any) -> Any:
        if not isinstance(value, accepted) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"got {value!r} of type {type(value).__name__}; allowed: {kind.__name__}")
        return kind(value)

    return structure


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, unstruct_collection_overrides={tuple: list})
    for kind, accepted in ((int, (int,)), (float, (int, float)), (str, (str,)), (bool, (bool,))):
        converter.register_structure_hook(kind, _structure_exactly(kind, accepted))
    converter.register_structure_hook(Path, lambda value, _annotation: Path(value))
    converter.register_unstructure_hook(Path, str)
    converter.register_structure_hook_func(_is_literal, _structure_literal)
    converter.register_structure_hook_func(_is_scalar_union, _structure_scalar_union)
    return converter


def _is_scalar_union(annotation: Any) -> bool:
    parts = typing.get_args(annotation)
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and all(part in (int, float, str, bool, type(None)) for part in parts)


def _structure_scalar_union(value: Any, annotation: Any) -> Any:
    parts = typing.get_args(annotation)
    if type(value) in parts:
        return value
    if isinstance(value, int) and not isinstance(value, bool) and float in parts:
        return float(value)
    names = ", ".join("null" if part is type(None) else part.__name__ for part in parts)
    raise ConfigError(f"got {value!r} of type {type(value).__name__}; allowed: {names}")


_CONVERTER = _make_converter()
