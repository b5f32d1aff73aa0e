"""``modelzone chat``: ask a deployed gateway, once or in turns."""

from __future__ import annotations

import os
import stat
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelzone.cli.account import Account, EnvironmentOption, LocalOption, ProfileOption, open_account
from modelzone.cli.options import JsonOption, examples
from modelzone.cli.output import note, write_json
from modelzone.cli.verbs.compile import complete_deployment_here
from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    from modelzone.client import Client, Turn
    from modelzone.local.main_job import Embedded

KEY_VARIABLE = "MODELZONE_API_KEY"
_MOST_KEY_BYTES = 16 * 1024

PromptArgument = Annotated[
    str | None,
    typer.Argument(metavar="[PROMPT]", help="What to ask; without it standard input, or on a terminal a conversation."),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="A deployment, an alias or a hub id; without it the only one, or the gateway's default.",
        autocompletion=complete_deployment_here,
    ),
]
SystemOption = Annotated[
    str | None, typer.Option("--system", metavar="TEXT", help="What the model is told before everything.")
]
TemperatureOption = Annotated[
    float | None,
    typer.Option("--temperature", metavar="X", min=0.0, help="Sampling; 0 is greedy. Default: the engine's."),
]
MaxTokensOption = Annotated[
    int | None, typer.Option("--max-tokens", metavar="N", min=1, help="The most tokens of one answer.")
]
ContinueOption = Annotated[
    bool, typer.Option("--continue", help="Go on while an answer ends only because it has reached a length.")
]


@dataclass(frozen=True, kw_only=True)
class Target:
    """A gateway and a token for it."""

    base_url: str
    api_key: str


def add_to(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "chat",
        epilog=examples(
            "modelzone chat 'What is deep learning?'",
            "modelzone chat",
            "git diff | modelzone chat --system 'Review this change.' --continue",
            "modelzone chat --base-url https://ID.execute-api.us-east-1.amazonaws.com/api --key-file key.txt 'Hi'",
            "modelzone chat --local 'What is Modelzone?'",
        ),
        short_help="Ask a deployed model; a conversation on a terminal.",
    )(chat)


def chat(
    context: typer.Context,
    prompt: PromptArgument = None,
    *,
    model: ModelOption = None,
    system: SystemOption = None,
    temperature: TemperatureOption = None,
    max_tokens: MaxTokensOption = None,
    go_on: ContinueOption = False,
    base_url: Annotated[
        str | None, typer.Option("--base-url", metavar="URL", help="A gateway; without it the environment's.")
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option("--key-file", metavar="PATH", help=f"A file that holds the key. Default: ${KEY_VARIABLE}."),
    ] = None,
    allow_http: Annotated[
        bool,
        typer.Option("--allow-http", help="Send the key to an http:// address of another machine, in the clear."),
    ] = False,
    environment: EnvironmentOption = "dev",
    profile: ProfileOption = None,
    local: LocalOption = False,
    as_json: JsonOption = False,
) -> None:
    """Ask a deployed model through the environment's gateway and print the answer as it comes.

    The key is read from MODELZONE_API_KEY or --key-file, never from the command line, which others can see. The answer
    goes to stdout; why it ended, its tokens, times and confidence go to stderr. Standard input is read when there is no
    PROMPT; on a terminal that starts a conversation: /help lists its commands.
    """
    if base_url and (profile or local):
        raise typer.BadParameter("--base-url names the gateway: leave out --profile and --local")
    question = given_prompt(prompt, as_json=as_json)
    if base_url:
        target = Target(base_url=base_url, api_key=_key(key_file, environment))
    else:
        target = _target(context, environment, profile=profile, local=local, key_file=key_file)
    parameters = {"temperature": temperature, "max_tokens": max_tokens, "continue_until_stop": go_on}
    converse(
        target, question, model=model, system=system, parameters=parameters, as_json=as_json, allow_http=allow_http
    )


def given_prompt(prompt: str | None, *, as_json: bool) -> str | None:
    """What to ask; None: a conversation on the terminal."""
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.buffer.read().decode(errors="replace")
    elif prompt is None and not as_json and sys.stdout.isatty():
        return None
    if prompt is None or not prompt.strip():
        raise typer.BadParameter("there is nothing to ask: give a PROMPT, or pipe a text")
    return prompt


def converse(
    target: Target,
    prompt: str | None,
    *,
    model: str | None,
    system: str | None,
    parameters: dict[str, Any],
    as_json: bool,
    allow_http: bool = False,
) -> None:
    """Ask one question, or talk on the terminal until there is no more to say."""
    from modelzone.client import Client, Conversation  # noqa: PLC0415
    from modelzone.client.transport import is_loopback  # noqa: PLC0415

    with Client(target.base_url, target.api_key, allow_http=allow_http, sleep=_wait) as client:
        if target.base_url.lower().startswith("http:") and not is_loopback(target.base_url):
            note(f"warning: the key and all that is said go over the network in the clear: {target.base_url}")
        conversation = Conversation(client, model=model, system=system, parameters=parameters, note=_remark)
        if prompt is not None:
            _ask(conversation.ask, prompt, base_url=target.base_url, as_json=as_json)
            return
        from modelzone.cli.talk import Talk  # noqa: PLC0415

        Talk(conversation, models=lambda: _models(client)).run(f"{target.base_url}")


def _ask(ask: Any, prompt: str, *, base_url: str, as_json: bool) -> None:
    from modelzone.cli.talk import show, summary  # noqa: PLC0415

    turn: Turn = ask(prompt, on_text=(lambda _: None) if as_json else show)
    if as_json and not turn.stopped:
        write_json(_document(turn, base_url))
        return
    if turn.answer.text and not turn.answer.text.endswith("\n"):
        show("\n")
    note(summary(turn))
    if turn.stopped:
        raise KeyboardInterrupt


def _document(turn: Turn, base_url: str) -> dict[str, Any]:
    answer = turn.answer
    return {
        "model": answer.model,
        "text": answer.text,
        "pieces": turn.pieces,
        "first_seconds": turn.first_seconds,
        "total_seconds": turn.total_seconds,
        "finish_reason": answer.finish_reason,
        "base_url": base_url,
        "deployment": answer.deployment,
        "prompt_tokens": answer.usage.prompt_tokens if answer.usage else None,
        "completion_tokens": answer.completion_tokens,
        "tokens_per_second": turn.tokens_per_second,
        "confidence": answer.confidence,
        "sentences": [{"text": one.text, "score": one.score, "tokens": one.tokens} for one in answer.sentences],
        "cached": answer.cached,
        "request_id": answer.request_id,
    }


def _target(
    context: typer.Context, environment: str, *, profile: str | None, local: bool, key_file: Path | None
) -> Target:
    account = open_account(context, environment, profile=profile, endpoint_url=None, local=local)
    if local:
        return local_target(_embedded(account, environment), key_file)
    from modelzone.compiling.aws import stack_outputs  # noqa: PLC0415
    from modelzone.settings.loading import load_environment  # noqa: PLC0415

    method = load_environment(account.root, environment).access.method
    if method == "iam":
        raise ModelzoneError(
            f"environment {environment} has access.method iam: its gateway takes signed requests, which this command "
            "does not send\n  fix: use a client that signs (docs/client.md), or an environment with keys"
        )
    # Before the account is asked: without one there is nothing to ask it for.
    key = _key(key_file, environment)
    outputs = stack_outputs(
        account.client("cloudformation"), environment=environment, suffix="gateway", needed=("ApiUrl",)
    )
    return Target(base_url=outputs["ApiUrl"], api_key=key)


def local_target(embedded: Embedded, key_file: Path | None = None) -> Target:
    """The embedded AWS's gateway, with the key that ``modelzone local up`` has made."""
    key = _from_file(key_file) if key_file else embedded.api_key
    return Target(base_url=embedded.base_url, api_key=key)


def _embedded(account: Account, environment: str) -> Embedded:
    from modelzone.cli.verbs.local import running  # noqa: PLC0415
    from modelzone.local.workspace import Workspace  # noqa: PLC0415

    return running(Workspace.of(account.root), environment)


def _key(file: Path | None, environment: str) -> str:
    if file is not None:
        return _from_file(file)
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise ModelzoneError(
            f"no key: {KEY_VARIABLE} is not set and there is no --key-file\n"
            f"  fix: export {KEY_VARIABLE}=$(modelzone keys create default -e {environment})"
        )
    return key


def _from_file(path: Path) -> str:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            note(f"warning: others than you may use {path}: chmod 600 {path}")
        words = file.read(_MOST_KEY_BYTES).decode(errors="replace").split()
    if len(words) != 1:
        raise ModelzoneError(f"--key-file {path}: holds {len(words)} words\n  fix: let it hold a key and nothing else")
    return words[0]


def _models(client: Client) -> list[str]:
    return [model.id for model in client.models()]


def _remark(text: str) -> None:
    note(f"note: {text}")


def _wait(seconds: float) -> None:
    note(f"note: the gateway asks to wait {seconds:.0f} s")
    time.sleep(seconds)
