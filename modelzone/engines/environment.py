"""Variables of the container that a profile adds: what they must not say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Serving

__all__ = ["Decided", "check_decided", "check_no_options", "check_secrets", "is_secret", "without_secrets"]

Value = TypeVar("Value")

# HF_TOKEN and OPENAI_API_KEY, but not MAX_TOTAL_TOKENS or TOKENIZERS_PARALLELISM.
_SECRET = re.compile(
    r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY)$"
    r"|(^|_)(API|ACCESS|PRIVATE|SECRET)_KEY|(^|_)(SECRET|PASSWORD)_",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Decided:
    """What a variable has to say because something else decides it: `by` names that with its value."""

    value: str
    by: str


def is_secret(name: str) -> bool:
    """Whether a variable or option of this name holds something that must not be written down."""
    return _SECRET.search(name.replace("-", "_")) is not None


def without_secrets(values: Mapping[str, Value]) -> Iterator[tuple[str, Value]]:
    """What further checks may quote: `check_secrets` has refused the rest."""
    return ((name, value) for name, value in values.items() if not is_secret(name))


def check_secrets(serving: Serving) -> Iterator[Refusal]:
    """Secrets do not belong into variables: templates, consoles and describe calls show those to many."""
    for kind, values in (("environment", serving.environment), ("options", serving.options)):
        for name in values:
            if is_secret(name):
                yield Refusal(
                    key=f"{kind}.{name}",
                    value="***",
                    problem="would stand in clear in templates and in SageMaker's console",
                    fix="leave it out: the compile job reads the hub's token from the environment's secret, and what "
                    "it makes needs none",
                )


def check_decided(serving: Serving, decided: Mapping[str, Decided]) -> Iterator[Refusal]:
    """Variables that follow from the plan may be repeated, not changed."""
    for name, value in without_secrets(serving.environment):
        wanted = decided.get(name)
        if wanted is not None and value.strip() != wanted.value:
            yield Refusal(
                key=f"environment.{name}",
                value=value,
                problem=f"contradicts {wanted.by}: the container needs {wanted.value!r}",
                fix="leave the variable out and change the setting it follows",
            )


def check_no_options(serving: Serving, *, engine: str) -> Iterator[Refusal]:
    """``options`` are for servers with a ``serving.properties`` or a command line."""
    for name, value in without_secrets(serving.options):
        yield Refusal(
            key=f"options.{name}",
            value=value,
            problem=f"would not be read: {engine} is configured by its environment",
            fix="use serving.environment",
        )
