"""The hub's token, its licence gate, and whether artifacts are compiled already."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Iterable
from typing import TYPE_CHECKING

from modelzone.doctor.checks.base import Context, Kind, Outcome

if TYPE_CHECKING:
    from modelzone.planning import DeploymentPlan, EnvironmentPlan
    from modelzone.settings.model_profile import Model

__all__ = ["KINDS"]

_HUB = "https://huggingface.co"
# Nothing else is sent: http.client repeats a header that it refuses, a line break in it for one, in its exception.
_TOKEN = re.compile(r"(?:hf|api)_[\w-]+", re.ASCII)
_SECONDS = 10.0
_OK, _REDIRECTS, _REFUSED, _NOT_FOUND = 200, range(300, 400), (401, 403), 404


def _fetched(plan: EnvironmentPlan) -> dict[str, Model]:
    """Models whose weights are downloaded from the hub, by id."""
    return {d.model.hub_id: d.model for d in plan.deployments if d.compile and d.compile.weights_source == "hub"}


def _put_token(context: Context) -> str:
    outputs = context.aws(
        f"cloudformation describe-stacks --stack-name {context.stack_name('model-store')} "
        "--query \"Stacks[0].Outputs[?OutputKey=='HubTokenSecretArn'].OutputValue\" --output text"
    )
    put = context.aws("secretsmanager put-secret-value --secret-string file:///dev/stdin")
    return f'{put} --secret-id "$({outputs})"'


def _token(context: Context) -> str | None:
    """The hub's token; None while the secret does not exist or holds its placeholder."""
    arn = context.stack_outputs("model-store").get("HubTokenSecretArn")
    if arn is None:
        return None
    value = context.once(
        "hub-token",
        lambda: str(context.client("secretsmanager").get_secret_value(SecretId=arn).get("SecretString", "")),
    ).strip()
    return value if _TOKEN.fullmatch(value) else None


def _token_stored(context: Context, models: tuple[str, ...]) -> Outcome:
    needing = f"{', '.join(models)} {'is' if len(models) == 1 else 'are'} gated"
    if "HubTokenSecretArn" not in context.stack_outputs("model-store"):
        return Outcome(
            "warn",
            f"{needing}, and the secret does not exist before the first deploy",
            f"{context.cdk('deploy CompileStack')}, then: {_put_token(context)}",
        )
    if _token(context) is None:
        return Outcome("fail", f"{needing}, and the secret holds no token of the hub", _put_token(context))
    return Outcome("ok", "the secret holds a token")


def _gate(context: Context, model: Model) -> Outcome:
    token = _token(context)
    if model.gated and token is None:
        return Outcome("skipped", "no token is stored yet to ask with")
    request = urllib.request.Request(  # noqa: S310 - https, by the constant above
        f"{_HUB}/api/models/{model.hub_id}/auth-check",
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )
    try:
        status = context.opener(request, _SECONDS)
    except OSError as error:
        return Outcome("skipped", f"the hub cannot be reached from here ({type(error).__name__})")
    if status == _OK:
        return Outcome("ok", "the hub gives the weights" + (" to this token" if token else ""))
    return _refused(model, status)


def _refused(model: Model, status: int) -> Outcome:
    if status in _REFUSED:
        page = f"{_HUB}/{model.hub_id}"
        return Outcome(
            "fail",
            f"the hub refuses the weights (HTTP {status})",
            f"accept the licence on {page} with the account whose token is stored, or store a valid token",
        )
    if status == _NOT_FOUND:
        return Outcome("fail", "the hub has no such model, or the token may not see it", "correct model.hub_id")
    if status in _REDIRECTS:
        return Outcome("warn", f"the hub has it under another name (HTTP {status})", "correct model.hub_id")
    return Outcome("warn", f"the hub answered HTTP {status}", "try again later")


def _compiled(context: Context, deployment: DeploymentPlan) -> Outcome:
    bucket = context.stack_outputs("model-store").get("ModelBucketName")
    key = f"{deployment.artifact_prefix}manifest.json"
    if bucket is None:
        return Outcome("warn", "not compiled: there is no model store yet", deployment.compile_hint)
    client = context.client("s3")
    try:
        client.head_object(Bucket=bucket, Key=key)
    except client.exceptions.ClientError as error:
        if error.response["Error"]["Code"] in {"404", "NoSuchKey", "NotFound"}:
            return Outcome("warn", f"not compiled: s3://{bucket}/{key} does not exist", deployment.compile_hint)
        raise
    return Outcome("ok", f"compiled: s3://{bucket}/{deployment.artifact_prefix}")


def _gated(plan: EnvironmentPlan) -> Iterable[tuple[str, ...]]:
    gated = tuple(hub_id for hub_id, model in _fetched(plan).items() if model.gated)
    return [gated] if gated else []


KINDS = (
    Kind(
        id="hub-token",
        permissions=("cloudformation:DescribeStacks", "secretsmanager:GetSecretValue", "kms:Decrypt"),
        items=_gated,
        title=lambda _: "token of the model hub",
        run=_token_stored,
    ),
    Kind(
        id="licence",
        permissions=("cloudformation:DescribeStacks", "secretsmanager:GetSecretValue", "kms:Decrypt"),
        items=lambda plan: _fetched(plan).values(),
        title=lambda model: f"licence gate of {model.hub_id}",
        run=_gate,
    ),
    Kind(
        id="artifact",
        permissions=("cloudformation:DescribeStacks", "s3:GetObject", "s3:ListBucket"),
        items=lambda plan: [d for d in plan.deployments if d.compile is not None],
        title=lambda deployment: f"compiled artifact of {deployment.name}",
        run=_compiled,
    ),
)
