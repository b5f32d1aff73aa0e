"""What all backends of AWS's Large Model Inference containers (DJL Serving) share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MappingProxyType

from modelzone.engines.defaults import EngineDefaults
from modelzone.engines.environment import check_secrets
from modelzone.engines.lmi_options import check_lmi_environment, check_options
from modelzone.engines.serving_properties import ServingProperties
from modelzone.refusals import Refusal
from modelzone.settings.model_profile import Model, Serving

__all__ = ["AMPERE", "CUDA_13_AMI", "JSONLINES_0_26", "LMI_0_26", "LmiEngine"]

# Families with compute capability 8.0 and above.
AMPERE = frozenset({"g5", "g6", "g6e", "p4d", "p4de", "p5"})
# Images with CUDA 13 need a newer driver than SageMaker's default hosts have.
CUDA_13_AMI = MappingProxyType(dict.fromkeys(sorted(AMPERE), "al2-ami-sagemaker-inference-gpu-3-1"))
LMI_0_26 = "deepjavalibrary/djl-serving@1635512 (0.26.0-dlc)"
JSONLINES_0_26 = (
    "Streams only with output_formatter=jsonlines, which the plan writes; fields of a token that are 0 or empty are "
    "left out."
)


class LmiEngine(EngineDefaults):
    """DJL Serving with one backend."""

    def properties(self, version: str, model: Model, serving: Serving) -> ServingProperties:
        """What the backend's ``serving.properties`` says."""
        raise NotImplementedError

    def check_backend(self, version: str, model: Model, serving: Serving) -> Iterable[Refusal]:
        """Combinations that the backend asserts against."""
        del version, model, serving
        return ()

    def check(self, version: str, model: Model, serving: Serving) -> Iterator[Refusal]:
        """Combinations of the backend, then keys and variables that contradict the plan."""
        yield from self.check_backend(version, model, serving)
        if not (serving.environment or serving.options):
            return
        yield from check_secrets(serving)
        properties = self.properties(version, model, serving)
        yield from check_options(serving, properties, version=version)
        yield from check_lmi_environment(serving, properties)

    def serving_properties(self, version: str, model: Model, serving: Serving) -> dict[str, str]:
        """All lines by their key."""
        return self.properties(version, model, serving).as_dict()
