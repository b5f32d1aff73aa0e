"""Options and arguments that several verbs take."""

from __future__ import annotations

from typing import Annotated

import typer

from modelzone.cli.completion import (
    complete_engine,
    complete_engine_version,
    complete_environment,
    complete_instance,
)
from modelzone.cli.regions import check_region, complete_region
from modelzone.errors import SettingsError

__all__ = [
    "BatchSizeOption",
    "DegreeOption",
    "DtypeOption",
    "EngineOption",
    "EngineVersionOption",
    "EnvironmentArgument",
    "InstanceOption",
    "JsonOption",
    "Overrides",
    "QuantizationOption",
    "RegionOption",
    "SequenceLengthOption",
    "context_overrides",
    "examples",
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
RegionOption = Annotated[
    str,
    typer.Option(
        "--region",
        metavar="REGION",
        help="Region of images and prices.",
        callback=check_region,
        autocompletion=complete_region,
    ),
]
EngineOption = Annotated[
    str | None, typer.Option("--engine", metavar="NAME", autocompletion=complete_engine, help="See: engines.")
]
EngineVersionOption = Annotated[
    str | None,
    typer.Option(
        "--engine-version",
        metavar="VERSION",
        autocompletion=complete_engine_version,
        help="The engine's version. See: engines NAME.",
    ),
]
InstanceOption = Annotated[
    str | None,
    typer.Option("--instance", metavar="TYPE", autocompletion=complete_instance, help="See: instances."),
]
DegreeOption = Annotated[
    int | None, typer.Option("--tensor-parallel-degree", metavar="N", help="Devices that share the model.")
]
BatchSizeOption = Annotated[
    int | None, typer.Option("--batch-size", metavar="N", help="Sequences that are decoded together.")
]
SequenceLengthOption = Annotated[
    int | None, typer.Option("--sequence-length", metavar="N", help="Prompt and answer together, in tokens.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", metavar="fp16|bf16", help="What is computed in. Default: the profile's or the config's."),
]
QuantizationOption = Annotated[
    str | None, typer.Option("--quantization", metavar="METHOD", help="Format of the weights: awq, fp8, …")
]
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
