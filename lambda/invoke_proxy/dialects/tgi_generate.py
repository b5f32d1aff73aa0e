"""The dialect `tgi-generate`: text-generation-inference 2.1.1 and 3.x behind SageMaker's `/invocations`.

What the server on Neuron does differently, read from optimum-neuron v0.0.25 and v0.0.28 and from TGI v3.3.6
(`backends/neuron`): every log probability is 0, `prefill` is empty, the text includes the end-of-sequence token, a
stop sequence ends with finish reason `length` (0.0.25 only), and nobody reads `frequency_penalty`, `typical_p`,
`watermark` and `grammar`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from invoke_proxy.errors import bad_request
from invoke_proxy.generation import Answer, Generation
from invoke_proxy.registry import Deployment

from . import tgi
from .asking import TextDialect, check_range, check_room, prompt_of, refuse_unmapped, unsupported
from .base import StreamParser
from .lmi import ALL_TOKENS
from .tgi import generate_answer

__all__ = ["TgiGenerate", "generate_answer", "generate_body"]

# The router's default of --max-top-n-tokens.
MAX_TOP_N_TOKENS = 5

_NEURON = "tgi-neuronx"
_NEURON_FIELDS = frozenset({"top_k", "repetition_penalty", "stop", "seed"})
_FIELDS = _NEURON_FIELDS | {"frequency_penalty", "logprobs", "top_logprobs"}
_NEURON_EXTRA = frozenset({"truncate"})
_EXTRA = _NEURON_EXTRA | {"typical_p", "watermark", "best_of"}
# The servers of optimum-neuron sample on the host, where a top_k above the vocabulary is none (`FusedLogitsWarper`).
# The one of TGI samples on the device, from this many tokens at most: a larger top_k fails the whole batch
# (`validate_sampling_params`, and `max_topk` of `NxDNeuronConfig`, in optimum-neuron 0.3.0).
_SAMPLES_ON_HOST = "0."
_MOST_ON_DEVICE = 256
_NEURON_PRETENDS = {
    "frequency_penalty": "ignores this parameter",
    # Its one warper knows temperature, top_k and top_p.
    "typical_p": "ignores this parameter",
    "logprobs": "reports 0 for every token",
    "watermark": "ignores this parameter",
    "best_of": "reports 0 for every token, so that none can be the best",
}


class TgiGenerate(TextDialect):
    """`inputs` and `parameters`; answers as `/generate` and `/generate_stream`."""

    name = "tgi-generate"
    tokens_are_counted = True

    def body(self, generation: Generation, deployment: Deployment) -> dict[str, Any]:
        """Return the body for `/invocations`."""
        neuron = deployment.engine == _NEURON
        if neuron:
            _refuse_pretended(generation, deployment)
        refuse_unmapped(
            generation,
            deployment,
            mapped=_NEURON_FIELDS if neuron else _FIELDS,
            extra=_NEURON_EXTRA if neuron else _EXTRA,
        )
        check_room(generation, deployment)
        if generation.top_logprobs > MAX_TOP_N_TOKENS:
            raise bad_request(
                f"top_logprobs is {generation.top_logprobs}, this engine returns {MAX_TOP_N_TOKENS} at most.",
                param="top_logprobs",
            )
        parameters = tgi.parameters(generation)
        if neuron:
            _limit_sampling(parameters, deployment)
        if generation.top_logprobs:
            parameters["top_n_tokens"] = generation.top_logprobs
        if not generation.stream and not neuron:
            # The prompt's tokens, for `usage`. TGI refuses this in streams; on Neuron it returns nothing.
            parameters["decoder_input_details"] = True
        return {"inputs": prompt_of(generation, deployment), "parameters": parameters, "stream": generation.stream}

    def answer(self, payload: bytes) -> Answer:
        """Read an answer that came in one piece."""
        return tgi.whole_answer(payload)

    def parser(self) -> StreamParser:
        """Return a parser for one stream."""
        return tgi.TgiParser()


def _limit_sampling(parameters: dict[str, Any], deployment: Deployment) -> None:
    """Say what sampling without a limit is: otherwise the model's `generation_config` has the word.

    The router's 1 for temperature and top_p overrides it, its 0 for top_k does not: that leaves transformers' 50, or
    the model's own; and where this is 0, the server raises an error, for other requests of the batch too.
    """
    on_host = deployment.engine_version.startswith(_SAMPLES_ON_HOST)
    if not on_host:
        check_range("top_k", parameters.get("top_k"), least=1, most=_MOST_ON_DEVICE)
    if parameters["do_sample"] and "top_k" not in parameters and "top_p" not in parameters:
        parameters["top_k"] = ALL_TOKENS if on_host else _MOST_ON_DEVICE


def _refuse_pretended(generation: Generation, deployment: Deployment) -> None:
    """Refuse what the server on Neuron accepts without doing it."""
    for name, why in _NEURON_PRETENDS.items():
        value = generation.extra[name] if name in generation.extra else getattr(generation, name, None)
        if value and not (name == "best_of" and value == 1):
            raise unsupported(deployment, name, why)


def generate_body(body: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
    """Return the body for `/invocations` that answers as `/generate` or `/generate_stream` would.

    Raises
    ------
    ApiError
        400 when `inputs` or `parameters` has the wrong type. Everything else is the engine's to judge.
    """
    inputs = body.get("inputs")
    if not isinstance(inputs, str):
        raise bad_request("inputs must be a string.", param="inputs", code="invalid_type")
    given = body.get("parameters")
    if given is None:
        # Without parameters TGI samples; with some, do_sample is false unless they say so.
        given = {"do_sample": True}
    elif not isinstance(given, dict):
        raise bad_request("parameters must be an object.", param="parameters", code="invalid_type")
    parameters = dict(given)
    if parameters.get("return_full_text") is None:
        parameters["return_full_text"] = False
    return {"inputs": inputs, "parameters": parameters, "stream": stream}
