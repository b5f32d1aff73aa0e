"""The parameters that chats and completions share, and what a deployment's features say to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from invoke_proxy.errors import ApiError, bad_request

from .fields import Fields, refused, require_list, require_object, require_text, wrong_type

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = [
    "Asked",
    "Extensions",
    "Sampling",
    "check_max_tokens",
    "not_supported",
    "only_one",
    "parse_stop",
    "parse_stream_options",
]

MAX_STOP_SEQUENCES = 4
MAX_CONTINUATIONS = 32
DEFAULT_CONTINUATIONS = 8
_MAX_BIAS = 100
_MAX_SEED = 2**63


@dataclass(frozen=True, kw_only=True)
class Extensions:
    """What this gateway does beyond the APIs it speaks.

    Attributes
    ----------
    continue_until_stop
        Go on with further requests while an answer ends at its limit of tokens.
    max_continuations
        How many requests there are at most, the first one included.
    confidence
        Report how sure the model was, for the answer and for each sentence.
    """

    continue_until_stop: bool = False
    max_continuations: int = DEFAULT_CONTINUATIONS
    confidence: bool = False

    @classmethod
    def taken_from(cls, fields: Fields) -> Extensions:
        """Take the three out of a request's fields."""
        return cls(
            continue_until_stop=fields.boolean("continue_until_stop", default=False),
            max_continuations=fields.integer("max_continuations", low=1, high=MAX_CONTINUATIONS)
            or DEFAULT_CONTINUATIONS,
            confidence=fields.boolean("confidence", default=False),
        )

    @property
    def max_requests(self) -> int:
        """How many requests an answer may take."""
        return self.max_continuations if self.continue_until_stop else 1

    def check(self, deployment: Deployment, *, path: str = "") -> None:
        """Refuse what the deployment cannot do."""
        if self.confidence and "logprobs" not in deployment.features:
            raise not_supported(f"{path}confidence", deployment, "reports no log probabilities")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How tokens are chosen. None means: the client left it to the engine.

    ``top_k``, ``min_p``, ``repetition_penalty`` and ``adapters`` are not OpenAI's; open engines have them under these
    names.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: Mapping[str, float] | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    adapters: tuple[str, ...] = ()

    @classmethod
    def taken_from(cls, fields: Fields) -> Sampling:
        """Take them out of a request's fields; values that ask for nothing become None."""
        return cls(
            temperature=fields.number("temperature", low=0, high=2),
            top_p=fields.number("top_p", low=0, high=1),
            # vLLM's "all tokens" are 0 and -1.
            top_k=_positive(fields.integer("top_k", low=-1, high=2**31 - 1)),
            min_p=fields.number("min_p", low=0, high=1) or None,
            repetition_penalty=_unless(1.0, fields.number("repetition_penalty", low=0, above=True)),
            frequency_penalty=fields.number("frequency_penalty", low=-2, high=2) or None,
            presence_penalty=fields.number("presence_penalty", low=-2, high=2) or None,
            logit_bias=_logit_bias(fields.take("logit_bias")),
            stop=parse_stop(fields.take("stop"), param="stop"),
            seed=fields.integer("seed", low=-_MAX_SEED, high=_MAX_SEED - 1),
            adapters=_adapters(fields.take("adapters")),
        )

    def check(self, deployment: Deployment) -> None:
        """Refuse what the deployment's features exclude, by the parameter's name.

        A stop sequence needs no feature: the gateway cuts the answer itself.

        Raises
        ------
        ApiError
            400 ``unsupported_parameter``.
        """
        features = deployment.features
        needs = (
            ("top_k", self.top_k, ("top_k",)),
            ("min_p", self.min_p, ("min_p",)),
            ("repetition_penalty", self.repetition_penalty, ("repetition_penalty",)),
            ("frequency_penalty", self.frequency_penalty, ("penalties", "frequency_penalty")),
            ("presence_penalty", self.presence_penalty, ("penalties",)),
            ("logit_bias", self.logit_bias, ("logit_bias",)),
            ("seed", self.seed, ("seed",)),
            ("adapters", self.adapters or None, ("adapters",)),
        )
        for name, value, any_of in needs:
            if value is not None and features.isdisjoint(any_of):
                raise not_supported(name, deployment)

    def words(self) -> dict[str, Any]:
        """Return the parameters as keyword arguments of a `Generation`."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "logit_bias": self.logit_bias,
            "stop": self.stop,
            "seed": self.seed,
            "adapters": self.adapters,
        }


def not_supported(param: str, deployment: Deployment, why: str = "cannot do this") -> ApiError:
    """Return the 400 for a parameter that a deployment's engine cannot honour."""
    engine = f"{deployment.engine} {deployment.engine_version}"
    return refused(param, f"by '{deployment.deployment}': its engine {engine} {why}")


def only_one(fields: Fields, name: str, *, low: int) -> None:
    """Refuse to give, or to choose from, several answers."""
    if (fields.integer(name, low=low) or 1) != 1:
        raise bad_request(f"{name} must be 1: the engines behind this gateway give one answer per request.", param=name)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the requests of all routes that generate have in common."""

    sampling: Sampling
    extensions: Extensions

    @property
    def stop(self) -> tuple[str, ...]:
        """The texts at which the answer ends."""
        return self.sampling.stop

    @property
    def continue_until_stop(self) -> bool:
        """Whether an answer that ends at its limit of tokens is continued."""
        return self.extensions.continue_until_stop

    @property
    def max_continuations(self) -> int:
        """How many requests an answer may take when it is continued, the first included."""
        return self.extensions.max_continuations

    @property
    def confidence(self) -> bool:
        """Whether the answer says how sure the model was."""
        return self.extensions.confidence


def check_max_tokens(max_tokens: int | None, deployment: Deployment, *, param: str) -> None:
    """Refuse an answer that has no room beside any prompt."""
    most = deployment.max_total_tokens - 1
    if max_tokens is not None and max_tokens > most:
        raise bad_request(
            f"{param} is {max_tokens}, but '{deployment.deployment}' has room for {most} at most: prompt and answer "
            f"share {deployment.max_total_tokens} tokens.",
            param=param,
        )


def parse_stop(value: Any, *, param: str) -> tuple[str, ...]:
    """Check one stop sequence or a list of them."""
    if value is None:
        return ()
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list):
        wrong_type(param, "a string or a list of strings", value)
    items = require_list(value, param=param, most=MAX_STOP_SEQUENCES)
    sequences = tuple(require_text(item, param=f"{param}[{index}]") for index, item in enumerate(items))
    if not all(sequences):
        raise bad_request(f"{param} holds an empty string, which would end every answer at once.", param=param)
    return sequences


def parse_stream_options(value: Any, *, stream: bool) -> bool:
    """Check ``stream_options`` and return whether usage is asked for."""
    if value is None:
        return False
    options = Fields(require_object(value, param="stream_options"), path="stream_options")
    if not stream:
        raise bad_request("stream_options needs stream to be true.", param="stream_options")
    include = options.boolean("include_usage", default=False)
    # Padding against traffic analysis: nothing is lost where it is not done.
    options.boolean("include_obfuscation", default=False)
    options.refuse_rest()
    return include


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None


def _unless(nothing: float, value: float | None) -> float | None:
    return None if value == nothing else value


def _logit_bias(value: Any) -> Mapping[str, float] | None:
    if value is None:
        return None
    bias: dict[str, float] = {}
    for token, weight in require_object(value, param="logit_bias").items():
        if not (token.isascii() and token.isdecimal()):
            raise bad_request("logit_bias must have token ids, as texts of digits, for keys.", param="logit_bias")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            wrong_type(f"logit_bias.{token[:20]}", "a number", weight)
        if not -_MAX_BIAS <= weight <= _MAX_BIAS:
            raise bad_request(
                f"logit_bias.{token[:20]} must be between -{_MAX_BIAS} and {_MAX_BIAS}.", param="logit_bias"
            )
        bias[token] = float(weight)
    return bias or None


def _adapters(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    items = [value] if isinstance(value, str) else require_list(value, param="adapters", most=MAX_STOP_SEQUENCES)
    names = tuple(require_text(item, param=f"adapters[{index}]") for index, item in enumerate(items))
    if not all(names):
        raise bad_request("adapters holds an empty name.", param="adapters")
    return names
