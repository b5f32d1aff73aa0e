"""Options and arguments that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

from modelzone.cli.completion import complete_environment
from modelzone.errors import SettingsError

__all__ = [
    "DEFAULT_REGION",
    "EnvironmentArgument",
    "JsonOption",
    "Overrides",
    "RegionOption",
    "context_overrides",
    "examples",
]

DEFAULT_REGION = "us-east-1"

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
RegionOption = Annotated[str, typer.Option("--region", metavar="REGION", help="Region of images and prices.")]
EnvironmentArgument = Annotated[
    str,
    typer.Argument(metavar="ENV", help="A file of environments/, without .yaml.", autocompletion=complete_environment),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "-c", "--context", metavar="deployment.X.FIELD=VALUE", help="Override a field, as for cdk. Can be repeated."
    ),
]


def examples(*lines: str) -> str:
    """The end of a verb's help. Click keeps the lines of a paragraph that begins so."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def context_overrides(given: list[str] | None) -> dict[str, dict[str, str]]:
    """Read ``-c`` as the CDK application does: deployment -> dotted field -> text.

    Raises
    ------
    SettingsError
        It is no override of a deployment.
    """
    from modelzone.settings.loading import deployment_overrides  # noqa: PLC0415

    pairs: dict[str, str] = {}
    for text in given or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"{text!r} is not deployment.X.FIELD=VALUE")
        if not key.startswith("deployment."):
            raise SettingsError(
                source=f"-c {text}", problem="is not an override", fix="write -c deployment.<name>.<field>=<value>"
            )
        pairs[key] = value
    return deployment_overrides(pairs)
