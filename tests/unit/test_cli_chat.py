"""``modelzone chat``: the answer on stdout, everything else on stderr, the key nowhere; and the talk on a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result
from unit.gateway_stand_in import DONE, KEY, Gateway, chunk, document, event, gateway, hello, refusal, stream

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.cli.talk import Talk, show, summary
from modelzone.client import Answer, Client, Conversation, Sentence, Turn, Usage

ROOT = Path(__file__).resolve().parents[2]
ONE_MODEL = document({"data": [{"id": "mixtral"}]})


@pytest.fixture
def server() -> Iterator[Gateway]:
    with gateway() as found:
        yield found


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELZONE_API_KEY", KEY)


def run(server: Gateway, *words: str, piped: str | bytes | None = None) -> Result:
    return CliRunner().invoke(app, ["chat", "--base-url", server.base_url, *words], input=piped)


def test_the_answer_is_on_stdout_and_the_rest_on_stderr(server: Gateway) -> None:
    server.replies = [hello(confidence=0.83)]
    shown = run(server, "--model", "mixtral", "Who?")
    assert (shown.exit_code, shown.stdout) == (ExitCode.DONE, "Hello there.\n")
    assert re.fullmatch(
        r"\[stop, 3 tokens, [\d.]+ tokens/s, first after \d\.\d\d s, all after \d\.\d\d s, confidence 0\.83\]\n",
        shown.stderr,
    )
    (request,) = server.seen
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.body["messages"] == [{"role": "user", "content": "Who?"}]
    assert KEY not in shown.output


def test_without_log_probabilities_it_says_so(server: Gateway) -> None:
    server.replies = [refusal(400, "unsupported_parameter", param="confidence"), hello()]
    shown = run(server, "--model", "mixtral", "Who?")
    assert (shown.exit_code, shown.stdout) == (ExitCode.DONE, "Hello there.\n")
    assert shown.stderr.startswith(
        "note: mixtral tells no log probabilities, so there is no confidence\n[stop, 3 tokens"
    )
    assert "confidence 0" not in shown.stderr


def test_options_are_sent(server: Gateway) -> None:
    server.replies = [hello()]
    words = ["--model", "m", "--system", "Be brief.", "--temperature", "0", "--max-tokens", "9", "--continue"]
    assert run(server, *words, "Who?").exit_code == ExitCode.DONE
    body = server.seen[0].body
    assert body["messages"][0] == {"role": "system", "content": "Be brief."}
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0, 9)
    assert body["continue_until_stop"] is True


def test_as_json(server: Gateway) -> None:
    server.replies = [ONE_MODEL, hello(confidence=0.5)]
    shown = run(server, "Who?", "--json")
    found = json.loads(shown.stdout)
    assert shown.stderr == ""
    assert (found["model"], found["text"], found["pieces"], found["finish_reason"]) == (
        "mixtral",
        "Hello there.",
        3,
        "stop",
    )
    assert 0 < found["first_seconds"] <= found["total_seconds"]
    assert found["sentences"] == [{"text": "Hello there.", "score": 0.5, "tokens": 3}]
    assert (found["prompt_tokens"], found["completion_tokens"], found["confidence"]) == (5, 3, 0.5)
    assert (found["base_url"], found["deployment"], found["request_id"]) == (server.base_url, "mixtral", "r-1")
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"^\| `chat`, `local chat` \| (.*) \|$", text, re.MULTILINE)
    assert re.findall("`(.*?)`", row) == list(found)


def test_standard_input_is_the_prompt(server: Gateway) -> None:
    server.replies = [hello()]
    assert run(server, "--model", "m", piped="Sum up:\nüber\n".encode() + b"\xff").stdout == "Hello there.\n"
    assert server.seen[0].body["messages"] == [{"role": "user", "content": "Sum up:\nüber\n\ufffd"}]
    nothing = run(server, piped=" \n")
    assert (nothing.exit_code, nothing.stdout) == (ExitCode.USAGE, "")
    assert "there is nothing to ask: give a PROMPT, or pipe a text" in nothing.stderr


def test_with_a_prompt_standard_input_is_left_alone(server: Gateway) -> None:
    server.replies = [hello()]
    reader, writer = os.pipe()
    # Nobody closes the other end: who read it would wait for ever.
    command = [sys.executable, "-m", "modelzone", "chat", "--base-url", server.base_url, "--model", "m", "Who?"]
    try:
        done = subprocess.run(command, cwd=ROOT, stdin=reader, capture_output=True, text=True, timeout=30, check=True)
    finally:
        os.close(reader)
        os.close(writer)
    assert done.stdout == "Hello there.\n"


def test_what_a_pipe_gets_is_not_changed(server: Gateway) -> None:
    server.replies = [stream(chunk("a\x1b[31mb\n"), chunk(reason="stop"), DONE)]
    assert run(server, "--model", "m", "Who?").stdout == "a\x1b[31mb\n"


def test_the_key_may_be_in_a_file(server: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELZONE_API_KEY")
    server.default = lambda _: hello()
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    file.chmod(0o644)
    shown = run(server, "--model", "m", "--key-file", str(file), "Who?")
    assert shown.stderr.startswith(f"warning: others than you may use {file}: chmod 600 {file}\n")
    file.chmod(0o600)
    assert "warning" not in run(server, "--model", "m", "--key-file", str(file), "Who?").stderr
    assert {request.headers["authorization"] for request in server.seen} == {f"Bearer {KEY}"}
    for text, says in (("", "holds 0 words"), ("a b", "holds 2 words")):
        file.write_text(text)
        refused = run(server, "--key-file", str(file), "Who?")
        assert (refused.exit_code, says in refused.stderr) == (ExitCode.REFUSED, True)
    missing = run(server, "--key-file", str(tmp_path / "nothing"), "Who?")
    assert missing.stderr == f"error: No such file or directory: {tmp_path / 'nothing'}\n"


def test_without_a_key(server: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MODELZONE_API_KEY")
    shown = run(server, "Who?")
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "")
    assert "export MODELZONE_API_KEY=$(modelzone keys create default -e dev)" in shown.stderr
    assert server.seen == []


def test_the_key_is_no_option() -> None:
    options = CliRunner().invoke(app, ["chat", "--help"]).stdout.partition("Options:")[2]
    assert re.findall(r"^  (?:-\w, )?(--[\w-]*key[\w-]*)", options, re.MULTILINE) == ["--key-file"]


def test_what_the_api_refuses(server: Gateway) -> None:
    server.replies = [refusal(401, "invalid_api_key", message="Send a valid key.", x_request_id="r-4")]
    shown = run(server, "--model", "m", "Who?")
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "")
    assert shown.stderr == "error: the API answered 401: Send a valid key. (invalid_api_key, request r-4)\n"
    server.replies = [stream(chunk("Hel"), event({"error": {"message": "gone", "code": "engine_error"}}))]
    shown = run(server, "--model", "m", "Who?")
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "Hel")
    assert "gone (engine_error)" in shown.stderr


def test_it_says_that_it_waits(server: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("modelzone.cli.verbs.chat.time.sleep", slept.append)
    server.replies = [refusal(503, "model_not_ready", retry_after="30"), hello()]
    shown = run(server, "--model", "m", "Who?")
    assert (shown.stdout, slept) == ("Hello there.\n", [30.0])
    assert "note: the gateway asks to wait 30 s\n" in shown.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--base-url", "http://x", "--local", "Hi"], "--base-url names the gateway"),
        (["--base-url", "http://x", "--profile", "p", "Hi"], "--base-url names the gateway"),
        (["--temperature", "-1", "Hi"], "Invalid value for '--temperature'"),
        (["--max-tokens", "0", "Hi"], "Invalid value for '--max-tokens'"),
    ],
)
def test_wrong_usage(words: list[str], says: str) -> None:
    shown = CliRunner().invoke(app, ["chat", *words])
    assert (shown.exit_code, shown.stdout) == (ExitCode.USAGE, "")
    assert says in shown.stderr


def test_an_address_in_the_clear_is_refused_or_warned_about(monkeypatch: pytest.MonkeyPatch) -> None:
    turn = Turn(answer=Answer(text="x", finish_reason="stop"), pieces=1, first_seconds=0.0, total_seconds=0.0)
    monkeypatch.setattr(Conversation, "ask", lambda *_, **__: turn)
    shown = CliRunner().invoke(app, ["chat", "--base-url", "http://gateway.example/api", "Hi"])
    assert (shown.exit_code, shown.stdout) == (ExitCode.REFUSED, "")
    assert "would go to http://gateway.example/api in the clear" in shown.stderr
    assert "--allow-http" in shown.stderr
    shown = CliRunner().invoke(app, ["chat", "--base-url", "http://gateway.example/api", "--allow-http", "Hi"])
    assert (shown.exit_code, shown.stdout) == (ExitCode.DONE, "\n")
    assert "warning: the key and all that is said go over the network in the clear" in shown.stderr
    shown = CliRunner().invoke(app, ["chat", "--base-url", "https://gateway.example/api", "Hi"])
    assert "warning" not in shown.stderr


class Stacks:
    """CloudFormation, as far as outputs are read."""

    def __init__(self, **outputs: str) -> None:
        self._outputs = outputs

    def describe_stacks(self, **wanted: str) -> dict[str, Any]:
        assert wanted == {"StackName": "modelzone-prod-gateway"}
        return {"Stacks": [{"Outputs": [{"OutputKey": k, "OutputValue": v} for k, v in self._outputs.items()]}]}


def test_the_address_is_an_output_of_the_stack(server: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    stacks = Stacks(ApiUrl=f"{server.base_url}/")
    monkeypatch.setattr("modelzone.doctor.preflight.aws_clients", lambda *_, **__: lambda _: stacks)
    server.replies = [ONE_MODEL, hello()]
    shown = CliRunner().invoke(app, ["--project", str(ROOT), "chat", "-e", "prod", "Who?"])
    assert (shown.exit_code, shown.stdout) == (ExitCode.DONE, "Hello there.\n")
    assert [request.path for request in server.seen] == ["/api/v1/models", "/api/v1/chat/completions"]


def test_an_environment_that_takes_signed_requests(tmp_path: Path) -> None:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "cdk.json").write_text("{}")
    file = tmp_path / "environments" / "dev.yaml"
    data = yaml.safe_load(file.read_text())
    data["access"] = {
        "method": "iam",
        "tenants": {"default": {"principals": ["arn:aws:iam::111122223333:role/caller"]}},
    }
    file.write_text(yaml.safe_dump(data))
    shown = CliRunner().invoke(app, ["--project", str(tmp_path), "chat", "Who?"])
    assert shown.exit_code == ExitCode.REFUSED
    assert "environment dev has access.method iam" in shown.stderr


def turn(**changed: Any) -> Turn:
    answer = Answer(text="x", finish_reason="length", usage=Usage(completion_tokens=11), **changed.pop("answer", {}))
    return Turn(**{"answer": answer, "pieces": 5, "first_seconds": 1.0, "total_seconds": 2.0, **changed})


def test_the_summary_names_what_is_known() -> None:
    assert summary(turn()) == "[length, 11 tokens, 10.0 tokens/s, first after 1.00 s, all after 2.00 s]"
    assert summary(turn(stopped=True, answer={"cached": True})).startswith("[stopped, 11 tokens")
    assert "from the cache" in summary(turn(answer={"cached": True}))
    # Where the engine does not count tokens.
    plain = Turn(answer=Answer(text="x", finish_reason="stop"), pieces=5, first_seconds=1.0, total_seconds=2.0)
    assert summary(plain) == "[stop, 5 pieces, first after 1.00 s, all after 2.00 s]"
    sentences = (
        Sentence(text="Sure.", score=0.9, tokens=2),
        Sentence(text="Per\nhaps\x1b[31m " + "x" * 99, score=0.25, tokens=3),
    )
    said = summary(turn(answer={"confidence": 0.5, "sentences": sentences}))
    assert said.splitlines()[1] == f"[least sure, 0.25: Per haps[31m {'x' * 47}…]"
    # What has no log probabilities is neither sure nor unsure.
    unknown = Sentence(text="Unknown.", score=None, tokens=0)
    assert summary(turn(answer={"confidence": 0.5, "sentences": (unknown, *sentences)})) == said
    assert "least" not in summary(turn(answer={"confidence": 0.5, "sentences": (unknown, sentences[0])}))


def test_a_terminal_does_not_obey_the_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    show("a\x1b]0;title\x07b\x9b31m\tc\nd\r")
    assert capsys.readouterr().out == "a]0;titleb31m\tc\nd"


class Typed:
    """Lines that somebody types; an exception is raised in the place of one."""

    def __init__(self, *lines: str | type[BaseException]) -> None:
        self._lines = list(lines)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        line = self._lines.pop(0) if self._lines else EOFError
        if isinstance(line, str):
            return line
        raise line


def talk(server: Gateway, *lines: str | type[BaseException], model: str | None = "mixtral") -> Conversation:
    with Client(server.base_url, KEY) as client:
        conversation = Conversation(client, model=model)
        models = lambda: [model.id for model in client.models()]  # noqa: E731
        Talk(conversation, models=models, read=Typed(*lines)).run("http://x")
        return conversation


def test_a_talk_of_several_turns(server: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    server.default = lambda _: hello()
    conversation = talk(server, "Who?", "", "  ", "And \\", "then?", "//quit", "/quit", "never sent")
    sent = [body["messages"][-1]["content"] for body in server.bodies()]
    assert sent == ["Who?", "And \nthen?", "/quit"]
    assert len(conversation.messages) == 6
    shown = capsys.readouterr()
    assert shown.out == "Hello there.\n" * 3
    assert shown.err.startswith("http://x; /help lists the commands")
    assert shown.err.count("[stop, 3 tokens") == 3


def test_commands_of_a_talk(server: Gateway, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.default = lambda request: hello() if request.body else document({"data": [{"id": "mixtral"}, {"id": "b"}]})
    file = tmp_path / "talk.json"
    talk(
        server, "/system Be brief.", "/system", "Who?", "/model b", "/model", f"/save {file}", f"/save {file}", "/save",
        "/save \x00", "/reset", "/system -", "/system", "Who?", "/help", "/nothing",
    )  # fmt: skip
    said = capsys.readouterr()
    assert json.loads(file.read_text()) == {
        "model": "b",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Who?"},
            {"role": "assistant", "content": "Hello there."},
        ],
    }
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"error: {file} cannot be written: File exists" in said.err
    assert "there is no command /nothing" in said.err
    assert "  mixtral\n* b\n" in said.out
    assert "Be brief.\n" in said.out
    assert "(nothing)\n" in said.out
    assert "/save FILE" in said.out
    questions = [body for body in server.bodies() if body]
    assert [body["model"] for body in questions] == ["mixtral", "b"]
    assert questions[1]["messages"] == [{"role": "user", "content": "Who?"}]


def test_a_talk_goes_on_after_errors_and_interrupts(server: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    server.replies = [refusal(400, "context_length_exceeded", message="Too\x1b long."), hello()]
    conversation = talk(server, "Who?", KeyboardInterrupt, "lost \\", KeyboardInterrupt, "Who?")
    assert len(conversation.messages) == 2
    said = capsys.readouterr().err
    assert "error: the API answered 400: Too long. (context_length_exceeded)" in said
    assert said.count("(/quit or Ctrl-D ends)") == 2
    assert server.seen[1].body["messages"] == [{"role": "user", "content": "Who?"}]


# Takes the terminal for its own, so that Ctrl-C reaches it as it reaches a shell's child.
# In a test run in the background Ctrl-C is ignored, and stays so in what it starts.
TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, "-m", "modelzone", *sys.argv[1:]])
"""


class Terminal:
    """``modelzone chat`` on a terminal of its own."""

    def __init__(self, server: Gateway, *words: str) -> None:
        self.shown = ""
        self._number, inner = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", TAKE_TERMINAL, "chat", "--base-url", server.base_url, *words],
            cwd=ROOT,
            env={**os.environ, "TERM": "dumb"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._number)

    def type(self, text: str) -> None:
        os.write(self._number, text.encode())

    def until(self, pattern: str) -> str:
        """What was shown up to a pattern, which is then forgotten."""
        deadline = time.monotonic() + 30
        while not (match := re.search(pattern, self.shown)):
            assert time.monotonic() < deadline, self.shown
            if select.select([self._number], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._number, 65536).decode(errors="replace")
                except OSError:
                    assert re.search(pattern, self.shown), self.shown
        before, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return before

    def status(self) -> int:
        return self._process.wait(timeout=30)


def test_on_a_terminal_ctrl_c_stops_the_answer_and_not_the_program(server: Gateway) -> None:
    forever = threading.Event()

    def hang() -> bytes:
        forever.wait(30)
        return DONE

    server.replies = [stream(chunk("Hel\x1b[31m"), hang), hello()]
    with Terminal(server, "--model", "mixtral") as terminal:
        terminal.until("Ctrl-D ends")
        terminal.type("Who?\n")
        assert "\x1b[31m" not in terminal.until(r"Hel\[31m")
        terminal.type("\x03")
        terminal.until(r"\[stopped, 1 piece, first after")
        terminal.type("And?\n")
        terminal.until(r"Hello there\.\r?\n\[stop, 3 tokens")
        assert server.seen[1].body["messages"][1]["content"].startswith("Hel")
        # An end that is typed before the prompt is there is lost: the line editor takes the terminal over first.
        terminal.until(r"> ")
        terminal.type("\x04")
        assert terminal.status() == ExitCode.DONE
    forever.set()


def test_ctrl_c_ends_a_single_question(server: Gateway) -> None:
    forever = threading.Event()

    def hang() -> bytes:
        forever.wait(30)
        return DONE

    server.replies = [stream(chunk("Hel"), hang)]
    # A test run in the background ignores Ctrl-C, and what it starts would do so too.
    restored = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-m", "modelzone", "chat", "--base-url", server.base_url, "--model", "m", "Who?"]
    process = subprocess.Popen(
        [sys.executable, "-c", restored, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.read(3) == "Hel"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    forever.set()
    assert (process.returncode, out) == (ExitCode.INTERRUPTED, "\n")
    assert err.startswith("[stopped, 1 piece, first after")
