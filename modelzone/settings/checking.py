"""Turns plain data into settings; every refusal names source, key, value and fix.

msgspec stops at the first value that does not fit and says where in its own words; here these become ours.
"""

from __future__ import annotations

import ast
import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec

from modelzone.errors import SettingsError

__all__ = ["validate"]

S = TypeVar("S", bound=msgspec.Struct)

# "<words> - at `$.gateway.burst_limit`"; for a key of a mapping "<words> - at `key` in `$.deployments`".
_MESSAGE = re.compile(r"(?P<words>.*?)(?: - at (?P<of_key>`key` in )?`(?P<path>\$.*)`)?", re.DOTALL)
_PART = re.compile(r"\.(?P<field>[^.\[]+)|\[(?P<index>\d+|\.\.\.)\]")
_FIELD = re.compile(r"Object (?P<kind>contains unknown|missing required) field `(?P<name>[^`]*)`")
_BOUND = re.compile(r"Expected `\w+` (?P<length>of length )?(?P<side>[<>])= (?P<bound>\S+)")
_PATTERN = re.compile(r"Expected `str` matching regex (?P<pattern>.*)", re.DOTALL)
_TYPE = re.compile(r"Expected `(?P<type>[^`]*)`, got `[^`]*`")
_NAMES = {
    "int": "a whole number",
    "str": "text in quotes",
    "bool": "true or false",
    "object": "a mapping of keys to values",
    "array": "a list",
}


def validate(model: type[S], data: object, *, source: str) -> S:
    """Build a settings structure from what YAML or JSON gave.

    Raises
    ------
    SettingsError
        Names the first refused key.
    """
    try:
        return msgspec.convert(data, model)
    except msgspec.ValidationError as error:
        raise _explain(model, data, str(error), source=source) from None


def _explain(model: type[S], data: object, message: str, *, source: str) -> SettingsError:
    match = _MESSAGE.fullmatch(message)
    words = match["words"] if match else message
    path = _path(model, data, (match["path"] if match else None) or "$", message)
    if match and match["of_key"]:
        entries = _value(data, path)
        names = list(entries) if isinstance(entries, Mapping) else []
        name = next((name for name in names if _only(model, data, path, name) == message), "")
        return SettingsError(
            source=source,
            key=".".join(path),
            problem=f"the key {name!r} is refused: {_lower(words)}",
            fix=_fix(model, path, words),
        )
    if field := _FIELD.fullmatch(words):
        key = ".".join([*path, field["name"]])
        if field["kind"] == "missing required":
            return SettingsError(
                source=source, key=key, problem="is required and missing", fix=f"add the key {field['name']}"
            )
        return SettingsError(
            source=source, key=key, problem="is not a known key", fix=_near(field["name"], _fields(model, path))
        )
    value = _value(data, path)
    shown = _lower(words) if isinstance(value, (dict, list)) else f"{value!r} is refused: {_lower(words)}"
    return SettingsError(source=source, key=".".join(path), problem=shown, fix=_fix(model, path, words))


def _lower(words: str) -> str:
    if match := _BOUND.match(words):
        side = "least" if match["side"] == ">" else "most"
        return (
            f"must {'have' if match['length'] else 'be'} at {side} {match['bound']}{' entries' * bool(match['length'])}"
        )
    if match := _TYPE.match(words):
        return f"must be {_type_names(match['type'])}"
    if _PATTERN.match(words):
        return "it has another form"
    return words[:1].lower() + words[1:]


def _type_names(types: str) -> str:
    return " or ".join(_NAMES.get(name.strip(), name.strip()) for name in types.split("|") if name.strip() != "null")


def _path(model: type[S], data: object, text: str, message: str) -> list[str]:
    """Resolve msgspec's path; it writes ``[...]`` for "some entry of a mapping", which is looked for."""
    path: list[str] = []
    for part in _PART.finditer(text):
        if part["index"] != "...":
            path.append(part["field"] or part["index"])
            continue
        entries = _value(data, path)
        names = list(entries) if isinstance(entries, Mapping) else []
        path.append(str(next((name for name in names if _only(model, data, path, name) == message), "?")))
    return path


def _only(model: type[S], data: object, path: list[str], name: object) -> str:
    """What is said when the mapping at `path` has only one of its entries."""

    def reduced(value: Any, rest: list[str]) -> Any:
        if not rest:
            return {name: value[name]}
        return {**value, rest[0]: reduced(value[rest[0]], rest[1:])}

    try:
        msgspec.convert(reduced(data, path), model)
    except msgspec.ValidationError as error:
        return str(error)
    return ""


def _value(data: object, path: Iterable[str]) -> object:
    for part in path:
        if isinstance(data, Mapping):
            data = data.get(part)
        elif isinstance(data, (list, tuple)) and part.isdigit():
            data = data[int(part)]
    return data


def _type_at(model: type[S], path: Iterable[str]) -> object:
    """The annotation of the field that a path leads to; None when it cannot be told."""
    current: Any = model
    for part in path:
        structs = list(_structs(current))
        if structs:
            fields = {field.encode_name: field.type for struct in structs for field in msgspec.structs.fields(struct)}
            current = fields.get(part)
            continue
        # An entry of a mapping or a list.
        inner = next((get_args(t) for t in _alternatives(current) if get_origin(t) in {dict, tuple, list}), ())
        current = (inner[-1] if inner[-1] is not ... else inner[0]) if inner else None
    return current


def _alternatives(annotation: Any) -> Iterable[Any]:
    """The members of a union, without `Annotated`."""
    if hasattr(annotation, "__metadata__"):
        yield from _alternatives(annotation.__origin__)
    elif get_origin(annotation) in {None, dict, tuple, list, Literal}:
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from _alternatives(argument)


def _structs(annotation: Any) -> Iterable[type[msgspec.Struct]]:
    return (t for t in _alternatives(annotation) if isinstance(t, type) and issubclass(t, msgspec.Struct))


def _fields(model: type[S], path: Iterable[str]) -> list[str]:
    structs = _structs(_type_at(model, path))
    return sorted({field.encode_name for struct in structs for field in msgspec.structs.fields(struct)})


def _near(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, n=1)
    return (f"did you mean {near[0]}? " if near else "") + f"allowed keys here: {', '.join(allowed)}"


def _fix(model: type[S], path: list[str], words: str) -> str:
    if match := _BOUND.match(words):
        side = "least" if match["side"] == ">" else "most"
        return f"give at {side} {match['bound']}" if match["length"] else f"use a value of at {side} {match['bound']}"
    if match := _PATTERN.match(words):
        return f"the value must match {ast.literal_eval(match['pattern'])}"
    if match := _TYPE.match(words):
        return f"give {_type_names(match['type'])}"
    if words.startswith("Invalid enum value"):
        values = [a for t in _alternatives(_type_at(model, path)) if get_origin(t) is Literal for a in get_args(t)]
        return f"use one of {' or '.join(map(repr, values))}" if values else "correct the value"
    if words.startswith("Invalid value"):
        tags = [str(t.__struct_config__.tag) for t in _structs(_type_at(model, path[:-1]))]
        return f"use one of {', '.join(tags)}" if tags else "correct the value"
    return "correct the value"
