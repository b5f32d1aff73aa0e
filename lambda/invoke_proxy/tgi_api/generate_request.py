"""The requests of TGI's `/generate` and `/generate_stream` (2.1.1 and 3.x), for deployments of any engine.

Read from TGI's router (`lib.rs`, `validation.rs`) at v2.1.1 and v3.3.7: it ignores fields that it does not know, here
they are refused; it looks at values as `validation.rs` does, and so does this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from invoke_proxy.errors import ApiError, bad_request
from invoke_proxy.generation import Generation
from invoke_proxy.openai_api.fields import Fields, refused, require_list, require_object, require_text, wrong_type
from invoke_proxy.openai_api.sampling import Asked, Extensions, Sampling, check_max_tokens, not_supported

if TYPE_CHECKING:
    from invoke_proxy.registry import Deployment

__all__ = ["GenerateRequest", "parse_generate_request"]

# TGI's launcher: --max-stop-sequences, --max-top-n-tokens, --max-best-of.
MAX_STOP_SEQUENCES = 4
MAX_TOP_N_TOKENS = 5
MAX_BEST_OF = 2
# TGI 2.1.1: without max_new_tokens an answer has at most 100 tokens; null means what the context leaves.
DEFAULT_MAX_NEW_TOKENS = 100

_TGI_DIALECTS = frozenset({"tgi-generate", "lorax"})
_PATH = "parameters"
# LoRAX's own (0.12.1): TGI does not read them.
_LORAX = "lorax"
_LORAX_EXTRA = frozenset({"adapter_source", "api_token", "ignore_eos_token", "merged_adapters"})
_MOST = 1e6
MERGE_STRATEGIES = ("linear", "ties", "dare_linear", "dare_ties")
MAJORITY_SIGN_METHODS = ("total", "frequency")


@dataclass(frozen=True, kw_only=True)
class GenerateRequest(Asked):
    """A checked request of TGI's. None means: the client left it to the engine, or to the default model.

    `extra` has the parameters that only TGI and LoRAX know, see `Generation.extra`; not shown, because it may hold a
    token of the hub. `format_name` is the parameter that has the `response_format`: TGI's ``grammar`` or LoRAX's.
    """

    model: str | None
    inputs: str
    stream: bool
    details: bool
    return_full_text: bool
    max_new_tokens: int | None
    greedy: bool
    top_n_tokens: int
    response_format: Mapping[str, Any] | None
    decoder_input_details: bool
    extra: Mapping[str, Any] = field(default_factory=dict, repr=False)
    format_name: str = "grammar"

    @property
    def best_of(self) -> int:
        """How many answers are made to choose the likeliest of."""
        return int(self.extra.get("best_of", 1))

    @property
    def extended(self) -> bool:
        """Whether anything is asked that TGI itself does not know, so that its own answer would not do."""
        return self.continue_until_stop or self.confidence

    def generation(self, deployment: Deployment) -> Generation:
        """Return what is asked of the deployment.

        Raises
        ------
        ApiError
            400 with the parameter's name for what the deployment cannot do.
        """
        with _Validation():
            self._check(deployment)
        logprobs = "logprobs" in deployment.features and (self.stream or self.details or self.confidence)
        words = self.sampling.words()
        if self.greedy:
            words["temperature"] = 0.0
        return Generation(
            stream=self.stream,
            prompt=self.inputs,
            max_tokens=self.max_new_tokens,
            max_tokens_param=f"{_PATH}.max_new_tokens",
            logprobs=logprobs,
            top_logprobs=self.top_n_tokens,
            response_format=self.response_format,
            extra=self.extra,
            **words,
        )

    def _check(self, deployment: Deployment) -> None:
        features = deployment.features
        try:
            self.sampling.check(deployment)
        except ApiError as error:
            # The sampling parameters do not know where this API has them.
            name = "adapter_id" if error.param == "adapters" else error.param
            raise not_supported(f"{_PATH}.{name}", deployment) from None
        self.extensions.check(deployment, path=f"{_PATH}.")
        check_max_tokens(self.max_new_tokens, deployment, param=f"{_PATH}.max_new_tokens")
        if self.top_n_tokens and "top_logprobs" not in features:
            raise not_supported(f"{_PATH}.top_n_tokens", deployment)
        if self.response_format is not None and "json" not in features:
            raise not_supported(f"{_PATH}.{self.format_name}", deployment)
        if self.decoder_input_details:
            why = (
                "cannot be joined with continue_until_stop and confidence"
                if deployment.dialect in _TGI_DIALECTS
                else "reports no tokens of the prompt"
            )
            raise not_supported(f"{_PATH}.decoder_input_details", deployment, why)
        if deployment.dialect not in _TGI_DIALECTS:
            for name in self.extra:
                raise not_supported(f"{_PATH}.{name}", deployment)
        elif deployment.dialect != _LORAX:
            for name in self.extra.keys() & _LORAX_EXTRA:
                raise not_supported(f"{_PATH}.{name}", deployment)
        if self.response_format is None and "grammar" in self.extra and "json" not in features:
            raise not_supported(f"{_PATH}.grammar", deployment)


def parse_generate_request(body: Mapping[str, Any], *, stream: bool) -> GenerateRequest:
    """Check a request body: `inputs`, `parameters` and, beyond TGI, `model`.

    `stream` in the body is accepted and says nothing: the route does.

    Raises
    ------
    ApiError
        400 with the parameter's name; `error_type` is TGI's ``validation``.
    """
    with _Validation():
        return _parse(body, stream=stream)


def _parse(body: Mapping[str, Any], *, stream: bool) -> GenerateRequest:
    top = Fields(body)
    model = top.text("model")
    inputs = top.required_text("inputs")
    if not inputs:
        raise bad_request("inputs is empty.", param="inputs")
    top.boolean("stream", default=stream)
    given = top.take(_PATH)
    top.refuse_rest()
    raw = {} if given is None else require_object(given, param=_PATH)
    fields = Fields(raw, path=_PATH)
    extensions = Extensions.taken_from(fields)
    sampling, typical_p, greedy = _sampling(fields, sampled=given is None)
    extra: dict[str, Any] = {} if typical_p is None else {"typical_p": typical_p}
    if fields.boolean("watermark", default=False):
        extra["watermark"] = True
    truncate = fields.integer("truncate", low=1)
    if truncate is not None:
        extra["truncate"] = truncate
    _best_of(fields, extra, stream=stream, greedy=greedy, seed=sampling.seed)
    _lorax(fields, extra, adapter=sampling.adapters)
    response_format = _grammar(fields.take("grammar"), extra)
    own_format = fields.take("response_format")
    if own_format is not None:
        if response_format is not None or "grammar" in extra:
            raise refused(f"{_PATH}.response_format", "together with grammar")
        response_format = _response_format(own_format)
    max_new_tokens = fields.integer("max_new_tokens", low=1)
    if "max_new_tokens" not in raw and not extensions.continue_until_stop:
        max_new_tokens = DEFAULT_MAX_NEW_TOKENS
    prefill = fields.boolean("decoder_input_details", default=False)
    if prefill and stream:
        raise refused(f"{_PATH}.decoder_input_details", "in streams")
    request = GenerateRequest(
        model=model,
        inputs=inputs,
        stream=stream,
        details=fields.boolean("details", default=False) or prefill,
        return_full_text=fields.boolean("return_full_text", default=False),
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        greedy=greedy,
        top_n_tokens=fields.integer("top_n_tokens", low=0, high=MAX_TOP_N_TOKENS) or 0,
        response_format=response_format,
        decoder_input_details=prefill,
        extensions=extensions,
        extra=extra,
        format_name="grammar" if own_format is None else "response_format",
    )
    fields.refuse_rest()
    if request.confidence and request.best_of > 1:
        # The engine's own answer has them, and it is not ours.
        raise refused(f"{_PATH}.confidence", "together with best_of")
    if request.continue_until_stop:
        for name, value in (
            (request.format_name, response_format),
            ("grammar", extra.get("grammar")),
            ("truncate", truncate),
        ):
            if value is not None:
                raise refused(f"{_PATH}.continue_until_stop", f"together with {name}")
        if request.best_of > 1:
            raise refused(f"{_PATH}.continue_until_stop", "together with best_of")
    return request


def _sampling(fields: Fields, *, sampled: bool) -> tuple[Sampling, float | None, bool]:
    """Return the sampling, `typical_p`, and whether TGI would always take the likeliest token.

    It does unless `do_sample` is set (the default without any parameters) or a parameter bends the distribution.
    """
    temperature = fields.number("temperature", low=0, above=True)
    top_k = fields.integer("top_k", low=1, high=2**31 - 1)
    top_p = fields.number("top_p", low=0, high=1, above=True, below=True)
    typical_p = fields.number("typical_p", low=0, high=1, above=True, below=True)
    do_sample = fields.boolean("do_sample", default=sampled)
    bent = temperature not in (None, 1.0) or any(value is not None for value in (top_k, top_p, typical_p))
    penalty = fields.number("repetition_penalty", low=0, above=True)
    adapter = fields.text("adapter_id")
    sampling = Sampling(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=None if penalty == 1.0 else penalty,
        frequency_penalty=fields.number("frequency_penalty", low=-2, high=2) or None,
        presence_penalty=fields.number("presence_penalty", low=-2, high=2) or None,
        stop=_stop(fields.take("stop")),
        seed=fields.integer("seed", low=0, high=2**64 - 1),
        adapters=(adapter,) if adapter else (),
    )
    return sampling, typical_p, not (do_sample or bent)


def _lorax(fields: Fields, extra: dict[str, Any], *, adapter: tuple[str, ...]) -> None:
    """Take what only LoRAX knows, by its names."""
    for name in ("adapter_source", "api_token"):
        value = fields.text(name)
        if value is not None:
            extra[name] = value
    if fields.boolean("ignore_eos_token", default=False):
        extra["ignore_eos_token"] = True
    merged = fields.take("merged_adapters")
    if merged is None:
        return
    at = f"{_PATH}.merged_adapters"
    if adapter:
        raise refused(at, "together with adapter_id")
    extra["merged_adapters"] = _merged_adapters(merged, at=at)


def _merged_adapters(value: Any, *, at: str) -> dict[str, Any]:
    """Check what LoRAX's router would refuse, or stumble over."""
    fields = Fields(require_object(value, param=at), path=at)
    ids = require_list(fields.take("ids"), param=f"{at}.ids")
    weights = require_list(fields.take("weights"), param=f"{at}.weights")
    if not ids or len(ids) != len(weights):
        raise bad_request(
            f"{at} has {len(ids)} ids and {len(weights)} weights: it needs an adapter at least, and a weight for each.",
            param=at,
        )
    merged: dict[str, Any] = {
        "ids": [require_text(item, param=f"{at}.ids[{index}]") for index, item in enumerate(ids)],
        "weights": [
            Fields({"weight": item}, path=f"{at}.weights[{index}]").number("weight", low=-_MOST, high=_MOST)
            for index, item in enumerate(weights)
        ],
    }
    if None in merged["weights"]:
        raise bad_request(f"{at}.weights must hold numbers.", param=f"{at}.weights", code="invalid_type")
    for name, words in (("merge_strategy", MERGE_STRATEGIES), ("majority_sign_method", MAJORITY_SIGN_METHODS)):
        word = fields.text(name)
        if word is not None:
            if word not in words:
                raise bad_request(f"{at}.{name} must be one of {', '.join(words)}.", param=f"{at}.{name}")
            merged[name] = word
    density = fields.number("density", low=0, high=1)
    if density is not None:
        merged["density"] = density
    fields.refuse_rest()
    return merged


def _response_format(value: Any) -> Mapping[str, Any] | None:
    """Return LoRAX's, which has the schema beside the type, as the one that all engines know."""
    at = f"{_PATH}.response_format"
    fields = Fields(require_object(value, param=at), path=at)
    kind = fields.required_text("type")
    schema = fields.take("schema")
    fields.refuse_rest()
    if kind not in ("text", "json_object", "json_schema"):
        raise bad_request(f"{at}.type must be one of text, json_object, json_schema.", param=f"{at}.type")
    if kind == "text":
        return None
    if schema is None:
        if kind == "json_schema":
            raise bad_request(f"{at}.schema is missing.", param=f"{at}.schema", code="missing_required_parameter")
        return {"type": "json_object"}
    if not isinstance(schema, dict):
        wrong_type(f"{at}.schema", "an object", schema)
    return {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}


def _best_of(fields: Fields, extra: dict[str, Any], *, stream: bool, greedy: bool, seed: int | None) -> None:
    best_of = fields.integer("best_of", low=1, high=MAX_BEST_OF)
    if best_of is None or best_of == 1:
        return
    at = f"{_PATH}.best_of"
    for refuses, why in (
        (stream, "in streams"),
        (greedy, "without sampling: set do_sample"),
        (seed is not None, "together with seed"),
    ):
        if refuses:
            raise refused(at, why)
    extra["best_of"] = best_of


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    at = f"{_PATH}.stop"
    items = require_list(value, param=at, most=MAX_STOP_SEQUENCES)
    sequences = tuple(require_text(item, param=f"{at}[{index}]") for index, item in enumerate(items))
    if not all(sequences):
        raise bad_request(f"{at} holds an empty string, which would end every answer at once.", param=at)
    return sequences


def _grammar(value: Any, extra: dict[str, Any]) -> Mapping[str, Any] | None:
    """Return a grammar of JSON as the `response_format` that all engines know; a regular expression is TGI's alone."""
    if value is None:
        return None
    at = f"{_PATH}.grammar"
    fields = Fields(require_object(value, param=at), path=at)
    kind = fields.required_text("type")
    content = fields.take("value")
    fields.refuse_rest()
    if kind == "regex":
        extra["grammar"] = {"type": "regex", "value": require_text(content, param=f"{at}.value")}
        return None
    if kind in ("json", "json_object"):
        return {"type": "json_schema", "json_schema": {"name": "grammar", "schema": _schema(content, at=f"{at}.value")}}
    if kind == "json_schema":
        config = Fields(require_object(content, param=f"{at}.value"), path=f"{at}.value")
        name = config.text("name") or "grammar"
        config.boolean("strict", default=True)
        schema = _schema(config.take("schema"), at=f"{at}.value.schema")
        config.refuse_rest()
        return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}
    raise bad_request(f"{at}.type must be one of json, regex, json_schema.", param=f"{at}.type")


def _schema(value: Any, *, at: str) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise bad_request(f"{at} is a text that is not JSON.", param=at) from None
    if not isinstance(value, dict):
        wrong_type(at, "an object", value)
    return value


class _Validation:
    """Gives errors of a request TGI's word for them, by which its clients choose the exception."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ApiError):
            error.error_type = "validation"
