"""What most engines answer alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from modelzone.engines.base import EngineVersion, Hosting
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["MODEL_FOLDER", "EngineDefaults"]

# SageMaker puts the objects of ModelDataSource here.
MODEL_FOLDER = "/opt/ml/model"


class EngineDefaults:
    """An engine that needs no ``serving.properties`` and no arguments and compiles nothing."""

    name: str
    title: str
    hosting: Hosting = "sagemaker"
    versions: Mapping[str, EngineVersion]

    def check(self, version: str, model: Model, serving: Serving) -> Iterable[Refusal]:
        """See `Engine`."""
        raise NotImplementedError

    def container_environment(self, version: str, model: Model, serving: Serving) -> dict[str, str]:
        """The settings' own variables."""
        del version, model
        return dict(serving.environment)

    def artifact_environment(self, version: str, values: Mapping[str, str]) -> dict[str, str]:
        """Nothing: the container reads no shapes from its environment."""
        del version, values
        return {}

    def serving_properties(self, version: str, model: Model, serving: Serving) -> dict[str, str] | None:
        """None: the server is not DJL Serving."""
        del version, model, serving
        return None

    def launch_arguments(self, version: str, model: Model, serving: Serving) -> tuple[str, ...]:
        """No arguments: the server reads its environment."""
        del version, model, serving
        return ()

    def export_command(self, version: str, model: Model, serving: Serving) -> tuple[str, ...] | None:
        """None: nothing is compiled ahead of time."""
        del version, model, serving
        return None
