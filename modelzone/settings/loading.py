"""Reads settings from YAML files and ``-c`` overrides; every refusal names file, key, value and fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError

from modelzone.errors import SettingsError
from modelzone.settings.environment import DeploymentSettings, Environment
from modelzone.settings.model_profile import ModelProfile, Serving

__all__ = ["apply_overrides", "deployment_overrides", "load_environment", "load_profile", "merge_serving"]

M = TypeVar("M", bound=BaseModel)
OVERRIDE_PREFIX = "deployment."
_OVERRIDE_PARTS = 3
_EXPECTED = {
    "int_type": "a whole number",
    "string_type": "text; put it in quotes",
    "bool_type": "true or false",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "tuple_type": "a list",
}


def _fields_at(model: type[BaseModel], path: tuple[str | int, ...]) -> list[str]:
    """Names of the keys that are allowed beside the one that `path` ends with; empty when they cannot be told."""
    current: type[BaseModel] = model
    for part in path[:-1]:
        field = current.model_fields.get(str(part))
        if field is None:
            # A key of a mapping (`deployments.mixtral`): the model is the mapping's value type, already current.
            continue
        found = list(_model_types(field.annotation))
        if not found:
            return []
        current = found[0]
    return sorted(current.model_fields)


def _model_types(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from _model_types(argument)


def _fix(model: type[BaseModel], error: Mapping[str, Any]) -> str:
    kind, context, path = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "extra_forbidden":
        allowed = _fields_at(model, path)
        near = difflib.get_close_matches(str(path[-1]), allowed, n=1)
        return (f"did you mean {near[0]}? " if near else "") + f"allowed keys here: {', '.join(allowed)}"
    if kind == "missing":
        return f"add the key {path[-1]}"
    if kind == "literal_error":
        return f"use one of {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"the value must match {context['pattern']}"
    if kind in {"greater_than_equal", "less_than_equal"}:
        bound = context["ge"] if kind == "greater_than_equal" else context["le"]
        return f"use a value of at {'least' if kind == 'greater_than_equal' else 'most'} {bound}"
    return f"give {_EXPECTED[kind]}" if kind in _EXPECTED else "correct the value"


def validate(model: type[M], data: object, *, source: str) -> M:
    """Turn plain data into a settings model.

    Raises
    ------
    SettingsError
        Names the first refused key; how many more there are is said too.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        first = problems[0]
        value = first["input"]
        message = first["msg"].removeprefix("Value error, ")
        message = message[0].lower() + message[1:]
        plain = first["type"] not in {"missing", "value_error"} and not isinstance(value, (dict, list))
        shown = f"{value!r} is refused: {message}" if plain else message
        if first["type"] == "extra_forbidden":
            shown = "is not a known key"
        if len(problems) > 1:
            shown += f" (and {len(problems) - 1} more)"
        key = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise SettingsError(
            source=source, key=key, problem=shown, fix=_fix(model, cast("Mapping[str, Any]", first))
        ) from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML that refuses a key given twice, where the first value would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002
        """Build a mapping after checking its keys."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        # A subclass of SafeLoader: it builds plain data only.
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            source=str(path), problem=f"is not valid YAML: {reason}", fix="correct the syntax"
        ) from None
    if not isinstance(data, dict):
        raise SettingsError(
            source=str(path), problem="does not hold a mapping", fix="start the file with key: value lines"
        )
    return data


def _load(model: type[M], folder: Path, name: str, *, what: str, source: str | None = None, key: str = "") -> M:
    path = folder / f"{name}.yaml"
    if "/" in name or not path.is_file():
        known = sorted(p.stem for p in folder.glob("*.yaml"))
        near = difflib.get_close_matches(name, known, n=1)
        raise SettingsError(
            source=source or str(folder),
            key=key,
            problem=f"there is no {what} named {name!r}",
            fix=(f"did you mean {near[0]}? " if near else "") + f"known: {', '.join(known) or 'none'}",
        )
    data = _read_yaml(path)
    if data.get("name") != name:
        raise SettingsError(
            source=str(path), key="name", problem=f"is {data.get('name')!r}", fix=f"make it the file's name, {name!r}"
        )
    return validate(model, data, source=str(path))


def load_environment(root: Path, name: str) -> Environment:
    """Read ``environments/<name>.yaml`` below the project's root folder."""
    return _load(Environment, root / "environments", name, what="environment")


def load_profile(root: Path, name: str, *, source: str | None = None, key: str = "") -> ModelProfile:
    """Read ``models/<name>.yaml`` below the project's root folder.

    `source` and `key` say where the profile was named; an error for a name that does not exist points there.
    """
    return _load(ModelProfile, root / "models", name, what="model profile", source=source, key=key)


def deployment_overrides(context: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Pick ``deployment.<name>.<field>[.<field>]`` out of the CDK context: deployment -> dotted field -> text.

    Raises
    ------
    SettingsError
        A context key is nearly, but not quite, an override.
    """
    found: dict[str, dict[str, str]] = {}
    for key, value in context.items():
        if not key.startswith(OVERRIDE_PREFIX):
            head = key.split(".", 1)[0]
            if (
                difflib.get_close_matches(head, ["deployment", "environment"], n=1, cutoff=0.75)
                and key != "environment"
            ):
                raise SettingsError(
                    source=f"-c {key}={value}",
                    problem="is not an override",
                    fix="write -c deployment.<name>.<field>=<value> or -c environment=<name>",
                )
            continue
        parts = key.split(".", _OVERRIDE_PARTS - 1)
        if len(parts) < _OVERRIDE_PARTS or not all(parts):
            raise SettingsError(
                source=f"-c {key}={value}",
                problem="names no field of a deployment",
                fix="write -c deployment.<name>.<field>=<value>",
            )
        found.setdefault(parts[1], {})[parts[2]] = str(value)
    return found


def apply_overrides(environment: Environment, overrides: Mapping[str, Mapping[str, str]]) -> Environment:
    """Return the environment with ``-c`` overrides in place, each checked like a value in the file."""
    deployments = dict(environment.deployments)
    for name, fields in overrides.items():
        for field, text in fields.items():
            source = f"-c deployment.{name}.{field}={text}"
            if name not in deployments:
                raise SettingsError(
                    source=source,
                    problem=f"environment {environment.name} has no deployment {name!r}",
                    fix=f"its deployments are: {', '.join(deployments)}",
                )
            data = deployments[name].model_dump(exclude_unset=True)
            target, path = data, field.split(".")
            for part in path[:-1]:
                inner = target.setdefault(part, {})
                if not isinstance(inner, dict):
                    raise SettingsError(source=source, problem=f"{part} has no keys of its own", fix=f"override {part}")
                target = inner
            target[path[-1]] = _parse(text)
            deployments[name] = validate(DeploymentSettings, data, source=source)
    return environment.model_copy(update={"deployments": deployments})


def _parse(text: str) -> object:
    """The value that the same text would have in a YAML file."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def merge_serving(profile: ModelProfile, deployment: DeploymentSettings, *, source: str) -> Serving:
    """How a deployment is served: the profile's defaults with the deployment's overrides on top."""
    data = profile.serving.model_dump()
    overrides = deployment.model_dump(exclude_unset=True, exclude={"profile"})
    data.update({key: value for key, value in overrides.items() if key != "scaling"})
    data["scaling"] = {**data["scaling"], **(overrides.get("scaling") or {})}
    return validate(Serving, data, source=source)
