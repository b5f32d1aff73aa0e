"""Command documents of Systems Manager: their parameters checked, their shell scripts filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["BUILT_IN", "DocumentRefused", "Script", "render"]

_PLACEHOLDER = re.compile(r"\{\{\s*([\w.-]+)\s*\}\}")
_DEFAULT_TIMEOUT_S = 3600
_ACTION = "aws:runShellScript"

BUILT_IN: Mapping[str, Mapping[str, Any]] = {
    "AWS-RunShellScript": {
        "schemaVersion": "2.2",
        "parameters": {
            "commands": {"type": "StringList", "minItems": 1},
            "workingDirectory": {"type": "String", "default": ""},
            "executionTimeout": {"type": "String", "default": "3600", "allowedPattern": "^[1-9][0-9]{0,5}$"},
        },
        "mainSteps": [
            {
                "action": _ACTION,
                "name": "runShellScript",
                "inputs": {"timeoutSeconds": "{{ executionTimeout }}", "runCommand": "{{ commands }}"},
            }
        ],
    }
}
"""Documents that AWS owns and every account has."""


class DocumentRefused(Exception):  # noqa: N818 - what Systems Manager does
    """Systems Manager refuses a command; ``code`` is the API's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class Script:
    """One step of a document, ready to run."""

    name: str
    text: str
    timeout_s: float


def render(
    document: str, content: str | Mapping[str, Any], parameters: Mapping[str, Sequence[str]]
) -> tuple[Script, ...]:
    """Check the parameters of a command and put them into the document's scripts.

    Raises
    ------
    DocumentRefused
        A parameter is unknown, missing or not allowed; or the document has a step that is not a shell script.
    """
    parsed: Mapping[str, Any] = json.loads(content) if isinstance(content, str) else content
    values = _values(document, parsed.get("parameters") or {}, parameters)
    scripts = []
    for step in parsed.get("mainSteps") or []:
        if step["action"] != _ACTION:
            raise DocumentRefused("UnsupportedOperation", f"{document}: the embedded AWS runs {_ACTION} steps only")
        inputs = step.get("inputs") or {}
        lines = inputs.get("runCommand") or []
        whole = _PLACEHOLDER.fullmatch(lines) if isinstance(lines, str) else None
        filled = list(values[whole[1]]) if whole else [_fill(line, values) for line in _as_list(lines)]
        timeout = _fill(str(inputs.get("timeoutSeconds") or _DEFAULT_TIMEOUT_S), values)
        scripts.append(Script(name=step["name"], text="\n".join(filled) + "\n", timeout_s=float(timeout)))
    return tuple(scripts)


def _as_list(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def _values(
    document: str, declared: Mapping[str, Mapping[str, Any]], given: Mapping[str, Sequence[str]]
) -> dict[str, Sequence[str]]:
    unknown = sorted(set(given) - set(declared))
    if unknown:
        raise DocumentRefused("InvalidParameters", f"document {document} does not support parameters: {unknown}")
    values: dict[str, Sequence[str]] = {}
    for name, rules in declared.items():
        if name in given:
            values[name] = _as_list(given[name])
        elif "default" in rules:
            default = rules["default"]
            values[name] = [str(item) for item in default] if isinstance(default, list) else [str(default)]
        else:
            raise DocumentRefused("InvalidParameters", f"Parameter {name} is missing; document {document} requires it.")
        for value in values[name]:
            _check(name, value, rules)
    return values


def _check(name: str, value: str, rules: Mapping[str, Any]) -> None:
    allowed, pattern = rules.get("allowedValues"), rules.get("allowedPattern")
    if allowed and value not in [str(choice) for choice in allowed]:
        raise DocumentRefused(
            "InvalidParameters", f"Parameter {name} has an invalid value: {value!r}. Valid values: {allowed}"
        )
    if pattern and not re.search(pattern, value):
        raise DocumentRefused(
            "InvalidParameters", f"Parameter value for {name} does not match the allowed pattern {pattern}"
        )
    shortest, longest = int(rules.get("minChars", 0)), int(rules.get("maxChars", len(value)))
    if not shortest <= len(value) <= longest:
        raise DocumentRefused(
            "InvalidParameters",
            f"Parameter value for {name} has {len(value)} characters, allowed are {shortest} to {longest}",
        )


def _fill(text: str, values: Mapping[str, Sequence[str]]) -> str:
    def value(match: re.Match[str]) -> str:
        # What is no parameter stays as it is: a script may hold braces of its own.
        return "\n".join(values[match[1]]) if match[1] in values else match[0]

    return _PLACEHOLDER.sub(value, text)
