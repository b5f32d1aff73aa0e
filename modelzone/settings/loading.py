"""Reads settings from YAML files and ``-c`` overrides; every refusal names file, key, value and fix."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from modelzone.errors import SettingsError
from modelzone.settings.checking import validate
from modelzone.settings.environment import DeploymentSettings, Environment
from modelzone.settings.gateway_checks import check_gateway
from modelzone.settings.model_profile import ModelProfile, Serving

__all__ = [
    "apply_overrides",
    "deployment_overrides",
    "environment_names",
    "load_environment",
    "load_profile",
    "merge_serving",
    "profile_names",
    "shown_override",
]

S = TypeVar("S", bound=msgspec.Struct)
OVERRIDE_PREFIX = "deployment."
_OVERRIDE_PARTS = 3
# PyYAML lets some of what its own constructors raise through: a date that does not exist, a list as a key, deep nests.
_UNREADABLE = (yaml.YAMLError, ValueError, TypeError, RecursionError)
# Mappings whose keys are merged one by one; everything else is replaced as a whole.
_MERGED = ("scaling", "environment", "options")


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
    except _UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise SettingsError(
            source=str(path), problem=f"is not valid YAML: {reason}", fix="correct the syntax"
        ) from None
    if not isinstance(data, dict):
        raise SettingsError(
            source=str(path), problem="does not hold a mapping", fix="start the file with key: value lines"
        )
    return data


def _load(model: type[S], folder: Path, name: str, *, what: str, source: str | None = None, key: str = "") -> S:
    path = folder / f"{name}.yaml"
    if "/" in name or not path.is_file():
        known = _names(folder)
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


def _names(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.stem for path in folder.glob("*.yaml")))


def environment_names(root: Path) -> tuple[str, ...]:
    """Names of all environments below the project's root folder."""
    return _names(root / "environments")


def profile_names(root: Path) -> tuple[str, ...]:
    """Names of all model profiles below the project's root folder."""
    return _names(root / "models")


def load_environment(root: Path, name: str) -> Environment:
    """Read ``environments/<name>.yaml`` below the project's root folder."""
    environment = _load(Environment, root / "environments", name, what="environment")
    check_gateway(environment, source=str(root / "environments" / f"{name}.yaml"))
    return environment


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
    """Return the environment with ``-c`` overrides in place, checked like the same values in the file."""
    deployments = dict(environment.deployments)
    for name, fields in overrides.items():
        sources = {field: shown_override(name, field, text) for field, text in fields.items()}
        if name not in deployments:
            raise SettingsError(
                source=next(iter(sources.values()), name),
                problem=f"environment {environment.name} has no deployment {name!r}",
                fix=f"its deployments are: {', '.join(deployments)}",
            )
        data = msgspec.to_builtins(deployments[name])
        for field, text in fields.items():
            _set(data, field, text, source=sources[field])
        # All at once: a new minimum may need the new maximum that comes after it.
        try:
            deployments[name] = validate(DeploymentSettings, data, source="")
        except SettingsError as error:
            at_fault = [source for field, source in sources.items() if _concerns(field, error.key)]
            raise SettingsError(
                source=" ".join(at_fault or sources.values()), key=error.key, problem=error.problem, fix=error.fix
            ) from None
    return msgspec.structs.replace(environment, deployments=deployments)


def shown_override(deployment: str, field: str, text: str) -> str:
    """An override as it was typed, for messages; values of variables are left out, because they may be secret."""
    return f"-c deployment.{deployment}.{field}={'…' if field.startswith('environment.') else text}"


def _set(data: dict[str, Any], field: str, text: str, *, source: str) -> None:
    """Put an override's value where its dotted field is."""
    path = field.split(".")
    for part in path[:-1]:
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise SettingsError(source=source, problem=f"{part} has no keys of its own", fix=f"override {part}")
    # Variables of the container are text, whatever they look like.
    data[path[-1]] = text if path[0] == "environment" else _parse(text)


def _concerns(field: str, key: str) -> bool:
    return field == key or field.startswith(f"{key}.") or key.startswith(f"{field}.")


def _parse(text: str) -> object:
    """The value that the same text would have in a YAML file."""
    try:
        return yaml.safe_load(text)
    except _UNREADABLE:
        return text


def merge_serving(profile: ModelProfile, deployment: DeploymentSettings, *, source: str) -> Serving:
    """How a deployment is served: the profile's defaults with the deployment's overrides on top."""
    data: dict[str, Any] = msgspec.to_builtins(profile.serving)
    overrides: dict[str, Any] = msgspec.to_builtins(deployment)
    # What the gateway does with the deployment.
    for key in ("profile", "cache"):
        del overrides[key]
    for key, value in overrides.items():
        data[key] = {**data[key], **value} if key in _MERGED else value
    return validate(Serving, data, source=source)
