"""What the gateway knows of its environment: deployments, settings, tenants; their stacks wrote them to SSM."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .errors import ApiError, bad_request, model_not_found

__all__ = ["Deployment", "Entry", "GatewaySettings", "Registry", "Snapshot", "Tenant"]

logger = logging.getLogger(__name__)

Access = Literal["keys", "iam", "cognito"]

TTL_SECONDS = 30.0
RETRY_SECONDS = 5.0

_SETTINGS = "settings"
_TENANTS = "tenants"
# What clients could ask for, by dialect, when entries did not yet say what the engine can do.
_OLDER_FEATURES: Mapping[str, frozenset[str]] = {
    "tgi-generate": frozenset({"seed", "stop", "top_k", "repetition_penalty"})
}


class Entry(Protocol):
    """One parameter of SSM: its name, its JSON text, and when it was written (seconds since 1970)."""

    @property
    def name(self) -> str:
        """The whole name, with its path."""
        ...

    @property
    def value(self) -> str:
        """The text."""
        ...

    @property
    def written(self) -> int:
        """When it was last changed, in seconds since 1970."""
        ...


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment that can be called.

    Attributes
    ----------
    dialect
        How its engine is asked: a key of `DIALECTS`.
    chat_template
        Name of the template that the gateway renders conversations with; "" when there is none.
    max_input_tokens, max_total_tokens
        The longest prompt, and prompt and answer together.
    registered
        When the entry was last written, in seconds since 1970.
    features
        What the engine can do, in the words of ``modelzone/engines``.
    cache_ttl_seconds
        How long a deterministic answer may be given again; 0: never.
    tokenizer
        ``s3://bucket/key`` of the model's tokenizer.json; "" when unknown.
    artifact
        ``s3://`` address of what is served; part of the cache's keys, so that a new artifact starts a new cache.
    """

    deployment: str
    model_id: str
    endpoint_name: str
    engine: str
    engine_version: str
    dialect: str
    chat_template: str
    max_input_tokens: int
    max_total_tokens: int
    registered: int
    features: frozenset[str] = frozenset()
    cache_ttl_seconds: int = 0
    tokenizer: str = ""
    artifact: str = ""

    @classmethod
    def from_entry(cls, entry: Entry) -> Deployment:
        """Read one registry entry. Numbers may be texts: CloudFormation writes them so.

        Raises
        ------
        ValueError, TypeError
            When the entry is not the JSON that a deployment's stack writes; it names the key.
        """
        data = _object(entry.value)
        dialect = _text(data, "dialect")
        older = "features" not in data
        return cls(
            deployment=_text(data, "deployment"),
            model_id=_text(data, "model_id"),
            endpoint_name=_text(data, "endpoint_name"),
            engine=_text(data, "engine"),
            engine_version=_text(data, "engine_version"),
            dialect=dialect,
            chat_template=_text(data, "chat_template", empty=True),
            max_input_tokens=_integer(data, "max_input_tokens", low=1),
            max_total_tokens=_integer(data, "max_total_tokens", low=1),
            registered=entry.written,
            # The keys below came later: entries of older stacks lack them.
            features=_OLDER_FEATURES.get(dialect, frozenset()) if older else _words(data, "features"),
            cache_ttl_seconds=_integer(data, "cache_ttl_seconds", low=0, default=0),
            tokenizer=_text(data, "tokenizer", default=""),
            artifact=_text(data, "artifact", default=""),
        )


@dataclass(frozen=True, kw_only=True)
class GatewaySettings:
    """What the environment file says about the gateway as a whole.

    Attributes
    ----------
    aliases
        Other names of deployments.
    default_model
        The deployment or alias for requests that name no model.
    wait_seconds
        How long a request may wait for an endpoint that has no instance yet; 0: not at all.
    hedge_after_seconds
        When a silent request is sent a second time; None: never.
    max_messages
        The most messages of one conversation.
    access
        Who checks the callers: our keys, IAM, or a Cognito user pool.
    tenant_claim
        The claim of a Cognito token that names the tenant.
    """

    aliases: Mapping[str, str] = field(default_factory=dict)
    default_model: str | None = None
    wait_seconds: int = 0
    hedge_after_seconds: float | None = None
    max_messages: int = 1000
    access: Access = "keys"
    tenant_claim: str = "custom:tenant"

    @classmethod
    def from_entry(cls, entry: Entry) -> GatewaySettings:
        """Read the parameter ``settings``; a missing key has its default.

        Raises
        ------
        ValueError, TypeError
            When a value is not what the gateway's stack writes; it names the key.
        """
        data = _object(entry.value)
        access = data.get("access", "keys")
        if access not in ("keys", "iam", "cognito"):
            message = "key 'access' must be one of keys, iam, cognito"
            raise ValueError(message)
        hedge = data.get("hedge_after_seconds")
        return cls(
            aliases=_texts(data, "aliases"),
            default_model=_text(data, "default_model", default="") or None,
            wait_seconds=_integer(data, "wait_seconds", low=0, default=0),
            hedge_after_seconds=None if hedge is None else _seconds("hedge_after_seconds", hedge),
            max_messages=_integer(data, "max_messages", low=1, default=1000),
            access=access,
            tenant_claim=_text(data, "tenant_claim", default="custom:tenant"),
        )


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """One party that uses the gateway.

    Attributes
    ----------
    models
        Deployments or aliases that it may use; empty: all.
    log_content
        Whether prompts and answers are logged, redacted.
    principals
        ARNs of IAM roles and users that are this tenant, with access `iam`.
    max_output_tokens
        The most tokens of one answer; None: what the model allows.
    """

    name: str
    models: frozenset[str] = frozenset()
    log_content: bool = False
    principals: frozenset[str] = frozenset()
    max_output_tokens: int | None = None

    @classmethod
    def from_entry(cls, entry: Entry) -> Tenant:
        """Read one parameter under ``tenants/``.

        Raises
        ------
        ValueError, TypeError
            When a value is not what the gateway's stack writes; it names the key.
        """
        data = _object(entry.value)
        log_content = data.get("log_content", False)
        if not isinstance(log_content, bool):
            message = "key 'log_content' must be true or false"
            raise TypeError(message)
        return cls(
            name=_text(data, "tenant"),
            models=_words(data, "models"),
            log_content=log_content,
            principals=_words(data, "principals"),
            max_output_tokens=_integer(data, "max_output_tokens", low=1, default=0) or None,
        )


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All of it, as it was read at one time. `deployments` are in the order of their names."""

    deployments: Mapping[str, Deployment]
    settings: GatewaySettings
    tenants: Mapping[str, Tenant]

    def match(self, model: str) -> list[Deployment]:
        """Return the deployments that go by this name: a deployment's name, an alias, or a model's hub id."""
        named = self.deployments.get(model) or self.deployments.get(self.settings.aliases.get(model, ""))
        if named is not None:
            return [named]
        return [item for item in self.deployments.values() if item.model_id == model]

    def allowed(self, tenant: Tenant | None) -> dict[str, Deployment]:
        """Return the deployments that a tenant may use; without a tenant, all."""
        if tenant is None or not tenant.models:
            return dict(self.deployments)
        names = {self.settings.aliases.get(name, name) for name in tenant.models}
        return {name: item for name, item in self.deployments.items() if name in names}


class Registry:
    """The snapshot, read again after a while, so that a new deployment is served without a cold start.

    When reading fails, what is known stays in use and reading is tried again soon.

    Parameters
    ----------
    load_deployments, load_gateway
        Read the parameters under the deployments' path and those under the gateway's. A gateway without parameters
        has default settings and knows no tenant.
    ttl
        Seconds after which both are read again.
    retry
        Seconds between attempts after a failure, and between two reads for unknown names.
    clock
        Seconds since 1970. Not a monotonic clock: that one may stand still while Lambda has the function frozen.
    """

    def __init__(
        self,
        *,
        load_deployments: Callable[[], Awaitable[Sequence[Entry]]],
        load_gateway: Callable[[], Awaitable[Sequence[Entry]]],
        ttl: float = TTL_SECONDS,
        retry: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._load_deployments = load_deployments
        self._load_gateway = load_gateway
        self._ttl = ttl
        self._retry = retry
        self._clock = clock
        self._lock = asyncio.Lock()
        self._known: Snapshot | None = None
        # Of the last attempt: when it began and ended, and for how long its outcome holds. And how many there were.
        self._read_at = self._ended_at = float("-inf")
        self._holds = 0.0
        self._attempts = 0

    async def snapshot(self) -> Snapshot:
        """Return what is known, read again when it is older than the TTL.

        Raises
        ------
        ApiError
            503 when it could never be read.
        """
        known = self._known
        if known is None or not self._within(self._holds, of=self._ended_at):
            known = await self._refresh(seen=self._attempts)
        return known

    async def find(self, model: str, *, tenant: Tenant | None = None, param: str | None = "model") -> Deployment:
        """Return the deployment that goes by this name and that the tenant may use.

        An unknown name reads the registry again first, at most once per `retry` seconds. A deployment outside the
        tenant's answers exactly as an unknown one.

        Raises
        ------
        ApiError
            404 for an unknown model, 400 for a hub id that several deployments serve.
        """
        found = _found(await self.snapshot(), model, tenant)
        if not found and not self._within(self._retry, of=self._read_at):
            found = _found(await self._refresh(seen=self._attempts), model, tenant)
        if not found:
            raise model_not_found(
                f"The model '{model[:200]}' does not exist here. GET /v1/models lists what does.", param=param
            )
        if len(found) > 1:
            names = ", ".join(item.deployment for item in found)
            raise bad_request(f"'{model}' is served by several deployments: name one of {names}.", param=param)
        return found[0]

    async def default(self, *, tenant: Tenant | None = None) -> Deployment:
        """Return the deployment for a request that names none: the default one, or the only one.

        Raises
        ------
        ApiError
            404 when there is none, 400 when there are several and none is the default.
        """
        snapshot = await self.snapshot()
        allowed = snapshot.allowed(tenant)
        if snapshot.settings.default_model is not None:
            chosen = _found(snapshot, snapshot.settings.default_model, tenant)
            if len(chosen) == 1:
                return chosen[0]
        if not allowed:
            raise model_not_found("No model is deployed behind this gateway.")
        first, *others = allowed.values()
        if others:
            names = ", ".join(allowed)
            raise bad_request(
                f"Several models are deployed: send model, one of {names}.",
                param="model",
                code="missing_required_parameter",
            )
        return first

    def _within(self, seconds: float, *, of: float) -> bool:
        """Whether so little time has gone since then; a clock that was set back makes a time old, not young."""
        return 0 <= self._clock() - of < seconds

    async def _refresh(self, *, seen: int) -> Snapshot:
        async with self._lock:
            if self._attempts > seen:
                # Another request has read it while this one waited.
                if self._known is None:
                    raise _unavailable(self._retry)
                return self._known
            self._read_at = self._clock()
            try:
                known = await self._load()
            except Exception as error:
                logger.warning(
                    "registry not readable", extra={"fields": {"error": type(error).__name__, "reason": str(error)}}
                )
                self._holds = self._retry
                if self._known is None:
                    raise _unavailable(self._retry) from error
                return self._known
            else:
                self._known = known
                self._holds = self._ttl
                return known
            finally:
                self._ended_at = self._clock()
                self._attempts += 1

    async def _load(self) -> Snapshot:
        deployments, gateway = await asyncio.gather(self._load_deployments(), self._load_gateway())
        return Snapshot(deployments=_deployments(deployments), settings=_settings(gateway), tenants=_tenants(gateway))


def _unavailable(retry: float) -> ApiError:
    return ApiError(
        status=503,
        message="The gateway cannot read its list of deployments. Try again soon.",
        code="registry_unavailable",
        retry_after=int(retry),
    )


def _found(snapshot: Snapshot, model: str, tenant: Tenant | None) -> list[Deployment]:
    allowed = snapshot.allowed(tenant)
    return [item for item in snapshot.match(model) if item.deployment in allowed]


def _deployments(entries: Iterable[Entry]) -> dict[str, Deployment]:
    """Return the readable entries by name; one broken entry must not take the others down."""
    known: dict[str, Deployment] = {}
    for entry in sorted(entries, key=lambda entry: entry.name):
        try:
            deployment = Deployment.from_entry(entry)
        except (ValueError, TypeError) as error:
            _skipped(entry, error)
        else:
            known[deployment.deployment] = deployment
    return known


def _settings(entries: Iterable[Entry]) -> GatewaySettings:
    """Return the settings. Broken ones raise: guessed ones could let in whom the environment file keeps out."""
    for entry in entries:
        if entry.name.rsplit("/", 1)[-1] == _SETTINGS and f"/{_TENANTS}/" not in entry.name:
            return GatewaySettings.from_entry(entry)
    return GatewaySettings()


def _tenants(entries: Iterable[Entry]) -> dict[str, Tenant]:
    known: dict[str, Tenant] = {}
    for entry in entries:
        if f"/{_TENANTS}/" not in entry.name:
            continue
        try:
            tenant = Tenant.from_entry(entry)
        except (ValueError, TypeError) as error:
            _skipped(entry, error)
        else:
            known[tenant.name] = tenant
    return known


def _skipped(entry: Entry, error: Exception) -> None:
    fields = {"parameter": entry.name, "reason": str(error)}
    logger.warning("registry entry skipped", extra={"fields": fields})


def _object(text: str) -> dict[str, Any]:
    data = json.loads(text)
    if not isinstance(data, dict):
        message = "the value is not a JSON object"
        raise TypeError(message)
    return data


def _text(data: Mapping[str, Any], name: str, *, empty: bool = False, default: str | None = None) -> str:
    value = data.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str) or not (value or empty or default is not None):
        message = f"key '{name}' must be a text"
        raise ValueError(message)
    return value


def _integer(data: Mapping[str, Any], name: str, *, low: int, default: int | None = None) -> int:
    value = data.get(name)
    if value is None and default is not None:
        return default
    try:
        number = int(value) if isinstance(value, int | str) and not isinstance(value, bool) else low - 1
    except ValueError:
        number = low - 1
    if number < low:
        message = f"key '{name}' must be an integer of at least {low}"
        raise ValueError(message)
    return number


def _seconds(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        message = f"key '{name}' must be a positive number of seconds, or null"
        raise ValueError(message)
    return float(value)


def _words(data: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the words of a list, or of a text that separates them by commas."""
    value = data.get(name)
    if value is None or value == "":
        return frozenset()
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",")]
    # An empty word must not vanish: a tenant whose list of models is empty may use all.
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        message = f"key '{name}' must be a list of texts, none of them empty"
        raise TypeError(message)
    return frozenset(value)


def _texts(data: Mapping[str, Any], name: str) -> dict[str, str]:
    value = data.get(name) or {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        message = f"key '{name}' must be an object of texts"
        raise TypeError(message)
    return dict(value)
