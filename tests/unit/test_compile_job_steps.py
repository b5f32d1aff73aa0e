"""The parts one by one, where the whole program cannot reach."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import re
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from unit.compile_job_host import FACTS

from compile_job import masking, spot
from compile_job.container import hub_snapshot
from compile_job.errors import StepError, Stopped
from compile_job.events import emit
from compile_job.job import Job, Weights, artifact_prefix
from compile_job.processes import run, run_quietly
from compile_job.progress import Progress
from compile_job.signatures import named, remedy
from compile_job.snapshot import File, check_path, hashes_of
from compile_job.steps.complete import check_index, check_names
from compile_job.steps.devices import check_devices
from compile_job.steps.export import Folders, export_model
from compile_job.steps.image import by_digest
from compile_job.stopping import Stop, held


def job(**overrides: Any) -> Job:
    values: dict[str, Any] = {
        "facts": FACTS,
        "bucket": "models",
        "prefix": artifact_prefix(FACTS),
        "image": "tgi:1",
        "image_digest": "",
        "accelerator": "neuron",
        "devices": 0,
        "layout": "neuron-config-key",
        "weights": Weights("hub", FACTS["model_id"], FACTS["model_revision"]),
        "export_command": ("optimum-cli", "--model", "{model}", "{output}"),
        "properties": {},
        "weights_only": False,
        "work_dir": Path("/work"),
        "min_free_gib": 0,
        "min_memory_gib": 0,
        "region": "us-east-1",
        "progress_parameter": "",
    }
    return Job(**{**values, **overrides})


def command(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable} -S\n{text}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    return folder


def neuron(*numbers: int, **more: Any) -> list[dict[str, Any]]:
    return [{"neuron_device": number, "nc_count": 2, "neuron_processes": [], **more} for number in numbers]


def test_every_neuron_device_is_passed_on_in_order(commands: Path) -> None:
    answer = json.dumps(neuron(10, 0, 2))
    command(commands, "neuron-ls", f"import sys; assert sys.argv[1:] == ['--json-output']; print({answer!r})")

    assert check_devices("neuron", 3) == ["--device=/dev/neuron0", "--device=/dev/neuron2", "--device=/dev/neuron10"]
    with pytest.raises(StepError, match=r"3 Neuron devices on this host, expected 6: check that the instance type"):
        check_devices("neuron", 6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (json.dumps(neuron(0, neuron_processes=[{"pid": 42, "command": "python"}])), "held by process 42"),
        ("[]", "0 Neuron devices on this host, expected 1"),
        ('{"other": "format"}', "told no devices"),
        ("not json", "told no devices"),
        (json.dumps([{"nc_count": 2}]), "told no devices"),
    ],
)
def test_neuron_devices_that_cannot_be_used(commands: Path, text: str, words: str) -> None:
    command(commands, "neuron-ls", f"print({text!r})")

    with pytest.raises(StepError, match=words):
        check_devices("neuron", 1)


def test_warnings_before_the_answer_do_not_matter(commands: Path) -> None:
    command(commands, "neuron-ls", f"print('warning: old driver'); print({json.dumps(neuron(0))!r})")

    assert check_devices("neuron", 1) == ["--device=/dev/neuron0"]


@pytest.mark.usefixtures("commands")
def test_tools_that_are_not_there() -> None:
    with pytest.raises(StepError, match="there is no neuron-ls on this host"):
        check_devices("neuron", 1)
    with pytest.raises(StepError, match="there is no nvidia-smi on this host"):
        check_devices("nvidia", 1)
    assert check_devices("none", 1) == []


def test_gpus_are_passed_on_with_shared_memory(commands: Path) -> None:
    lines = "0, NVIDIA L4, 23034 MiB\n1, NVIDIA L4, 23034 MiB"
    command(commands, "nvidia-smi", f"print({lines!r})")

    assert check_devices("nvidia", 2) == ["--gpus", "all", "--shm-size", "12gb"]
    with pytest.raises(StepError, match="2 NVIDIA devices on this host, expected 4: check"):
        check_devices("nvidia", 4)
    command(commands, "nvidia-smi", "import sys; print('NVIDIA-SMI has failed'); sys.exit(9)")
    with pytest.raises(StepError, match=r"0 NVIDIA .* \(nvidia-smi ended with status 9: NVIDIA-SMI has failed\)"):
        check_devices("nvidia", 1)


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ("host:5000/a/b:1", "host:5000/a/b@sha256:x"),
        ("host:5000/a/b", "host:5000/a/b@sha256:x"),
        ("a@sha256:y", "a@sha256:x"),
        ("a:1", "a@sha256:x"),
    ],
)
def test_digest_takes_the_tag_s_place(image: str, reference: str) -> None:
    assert by_digest(image, "sha256:x") == reference
    assert by_digest(image, "") == image


def test_export_of_a_gpu_engine(tmp_path: Path, commands: Path) -> None:
    log = tmp_path / "calls"
    command(commands, "docker", f"import sys; open({str(log)!r}, 'a').write(repr(sys.argv[1:]) + chr(10))")
    words = ("python", "x.py", "--properties_dir", "{properties}", "{output}", "{model}")
    order = job(work_dir=tmp_path, accelerator="nvidia", export_command=words, properties={"option.a": "b"})
    folders = Folders(order)
    folders.output.mkdir(parents=True)
    (folders.output / "left-over").touch()

    export_model(order, folders, image="i", options=["--gpus", "all"])

    call = log.read_text(encoding="utf-8")
    assert "'--gpus', 'all'" in call
    assert f"type=bind,source={folders.weights},target=/modelzone/weights" in call
    assert "'--properties_dir', '/modelzone/properties'" in call
    assert "HF_HUB_OFFLINE=1" in call
    assert "NEURON" not in call
    assert not folders.output.exists(), "what an earlier run left would get into the artifact"


def test_secret_is_starred_in_output(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; token = sys.stdin.read(); print('got', token); print('last')"

    done = run([sys.executable, "-c", program], secret="hf_secret")

    assert done.tail == ("got ***", "last")
    assert capsys.readouterr().out == "got ***\nlast\n"
    assert run_quietly([sys.executable, "-c", program], secret="hf_secret").tail == ("got ***", "last")
    emit("x", message="it was hf_secret")
    assert "hf_secret" not in capsys.readouterr().out
    assert masking.hide("hf_secret") == "***"


def test_exit_status_last_line_and_lines_that_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; print('mine'); print('why'); print(); sys.exit(7)"
    taken: list[str] = []

    def take(line: str) -> bool:
        if line == "mine":
            taken.append(line)
        return line == "mine"

    done = run([sys.executable, "-c", program], on_line=take)

    assert (done.status, done.last_line, taken) == (7, "why", ["mine"])
    assert capsys.readouterr().out == "why\n\n"


@contextlib.contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Let a signal arrive in the main thread, as SIGTERM does."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    previous = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_stubborn_child_is_killed() -> None:
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"

    started = time.monotonic()
    with pytest.raises(Stopped), stopped_after(0.5):
        run([sys.executable, "-c", program], grace=0.2)

    assert time.monotonic() - started < 5


def test_child_ends_when_a_check_fails() -> None:
    def check() -> None:
        message = "no more"
        raise StepError(message)

    started = time.monotonic()
    with pytest.raises(StepError, match="no more"):
        run([sys.executable, "-c", "import time; time.sleep(60)"], check=check)

    assert time.monotonic() - started < 10


@contextlib.contextmanager
def handlers_kept() -> Iterator[Stop]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = Stop()
    stop.install()
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_signal_waits_for_what_is_held() -> None:
    done = []

    def begin(stop: Stop) -> None:
        with held():
            signal.raise_signal(signal.SIGTERM)
            done.append(stop.event.is_set())

    with handlers_kept() as stop, pytest.raises(Stopped):
        begin(stop)
    assert done == [True]


def test_notice_stops_the_main_thread_once() -> None:
    with handlers_kept() as stop:
        threading.Timer(0.2, stop.notice).start()
        with pytest.raises(Stopped) as caught:
            time.sleep(10)
        assert caught.value.spot
        signal.raise_signal(signal.SIGTERM)  # ignored: cleaning up goes on
        with pytest.raises(Stopped):
            stop.check()


def test_no_notice_where_no_service_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    notices: list[int] = []
    with spot.watch_for_notice(lambda: notices.append(1), every=0.01):
        time.sleep(0.1)
    assert notices == []


class Written:
    """Takes what would be written to the parameter."""

    def __init__(self) -> None:
        self.values: list[dict[str, Any]] = []
        self.texts: list[str] = []

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.values.append(json.loads(text))


def test_progress_tells_bytes_percent_and_remaining_time(capsys: pytest.CaptureFixture[str]) -> None:
    written = Written()
    progress = Progress("key", written, every=0.2)
    with progress.step("weights"):
        progress.expect(1000)
        for _ in range(4):
            progress.add(100)
            time.sleep(0.6)
        progress.watch(lambda: 50)
        assert progress.snapshot()["bytes"] == 450
    progress.close("done")

    moving = [value for value in written.values if value["bytes"] and value["state"] == "running"]
    assert moving[-1]["percent"] == pytest.approx(40, abs=10)
    assert moving[-1]["seconds_left"] > 0
    assert written.values[-1]["state"] == "done"
    assert list(written.values[-1]["steps"]) == ["weights"]
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"start", "progress", "end"} <= {event["event"] for event in events}


def test_progress_is_small_and_never_fails_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    masking.remember("hf_planted")
    written = Written()
    progress = Progress("key", written)
    progress.close("failed", "{{ssm:x}} hf_planted " + "x" * 9000)
    assert len(written.texts[-1]) < 4096
    assert "{{" not in written.texts[-1]
    assert "hf_planted" not in written.texts[-1]

    def refuse(_: str) -> None:
        message = "AccessDenied"
        raise RuntimeError(message)

    progress = Progress("key", refuse, every=0.01)
    for name in ("a", "b"):
        with progress.step(name):
            time.sleep(0.05)
    progress.close("done")
    assert capsys.readouterr().out.count("the progress parameter cannot be written: AccessDenied") == 1


def test_slow_parameter_does_not_hold_the_job_up() -> None:
    progress = Progress("key", lambda _: time.sleep(1.5))
    started = time.monotonic()
    for name in "abcdefgh":
        with progress.step(name):
            pass
    assert time.monotonic() - started < 1
    progress.close("done")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "2024 [F137] neuronx-cc was forcibly killed",
            "too little memory: use a larger instance (doctor: neuron-",
        ),
        ("Estimated peak HBM usage (21.8) exceeds 16GB", "raise the tensor parallel degree"),
        ("Unsupported topology. Supported number of Neuron Cores is 1, 2", "not possible on this instance"),
        ('adding custom device "/dev/neuron0": no such file or directory', "device is missing"),
        ("Cannot access gated repo for url https://", "licence"),
        ("OSError: [Errno 28] No space left on device", "larger root volume (doctor: disk-full)"),
        ("Retrying (Retry(total=4)): Max retries exceeded with url", ""),
        ("everything is fine", ""),
    ],
)
def test_known_failures_have_a_remedy(line: str, words: str) -> None:
    found = remedy(["before", line, "after"])

    assert words in found
    assert bool(found) == bool(words)


def test_cause_comes_before_what_follows_from_it() -> None:
    lines = ["nrt_init() failed", "This runtime requires Neuron Driver version 2.19 or greater"]

    assert "(doctor: neuron-driver-mismatch)" in remedy(lines)
    assert "(doctor: neuron-init-failed)" in remedy(lines[:1])


def test_message_is_named_once() -> None:
    once = named("x: No space left on device")

    assert once == "x: No space left on device (doctor: disk-full)"
    assert named(once) == once
    assert named("what nobody knows") == "what nobody knows"


def test_a_file_is_what_the_hub_says(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    found = hashes_of(path, lambda: None)
    blob = hashlib.sha1(b"blob 2\0{}", usedforsecurity=False).hexdigest()

    assert found.match(File("config.json", 2, blob_id=blob))
    assert found.match(File("config.json", 2, hashlib.sha256(b"{}").hexdigest(), "another blob: a pointer's"))
    assert not found.match(File("config.json", 2, blob_id="0" * 40))
    assert not found.match(File("config.json", 2, "0" * 64))
    assert not found.match(File("config.json", 3, blob_id=blob))


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../../x"])
def test_paths_that_lead_elsewhere(path: str) -> None:
    with pytest.raises(StepError, match="is no path inside a snapshot"):
        check_path(path)


LANGUAGE = ["config.json", "tokenizer.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("layout", "names", "words"),
    [
        ("neuron-config-key", LANGUAGE, ""),
        ("neuron-config-key", LANGUAGE[1:], "has no config.json"),
        ("neuron-config-file", ["config.json", "model.bin"], "has no tokenizer.json"),
        ("tensorrt-llm-repo", ["config.json", "model.bin"], ""),
        ("traced-modules", ["model.pt"], ""),
        ("none", ["model.safetensors"], ""),
        ("none", ["config.json"], "has no weights"),
    ],
)
def test_files_that_a_layout_needs(layout: str, names: list[str], words: str) -> None:
    if not words:
        check_names(names, layout=layout, what="a model")
        return
    with pytest.raises(StepError, match=words):
        check_names(names, layout=layout, what="a model")


def test_every_file_of_the_index_must_be_listed(tmp_path: Path) -> None:
    index = "model.safetensors.index.json"
    names = [index, *(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))]
    weight_map = {f"layer.{number}": name for number, name in enumerate(names[1:] * 2)}
    (tmp_path / index).write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")

    check_index(tmp_path, names, what="a model")
    with pytest.raises(StepError, match=r"names model-00002-of-00003\.safetensors, which it does not have"):
        check_index(tmp_path, [name for name in names if "00002" not in name], what="a model")


def test_one_copy_of_the_weights_is_downloaded() -> None:
    mixtral = ["config.json", "model-1.safetensors", "consolidated.00.pt", "tokenizer.model", "pytorch_model.bin"]

    assert hub_snapshot.choose(mixtral) == ["config.json", "model-1.safetensors", "tokenizer.model"]
    assert hub_snapshot.choose(["README.md", "a.json", "pytorch_model.bin"]) == ["a.json", "pytorch_model.bin"]
    assert hub_snapshot.choose(["consolidated.safetensors", "pytorch_model.bin"]) == ["pytorch_model.bin"]
    assert hub_snapshot.choose(["onnx/x.json", "original/params.json", "EVA02_B.pt"]) == ["EVA02_B.pt"]


class LfsObject:
    """As newer versions of huggingface_hub have it."""

    sha256 = "c" * 64


@pytest.mark.parametrize("token", ["hf_secret", ""])
@pytest.mark.parametrize("lfs", [{"sha256": "c" * 64, "size": 7}, LfsObject()])
def test_hub_is_asked_for_files_and_the_pinned_revision(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str, lfs: Any
) -> None:
    calls: list[Any] = []

    class HfApi:
        def __init__(self, token: str | None) -> None:
            calls.append(token)

        def model_info(self, repository: str, *, revision: str, files_metadata: bool) -> Any:
            calls.append((repository, revision, files_metadata))
            siblings = [
                SimpleNamespace(rfilename="model.safetensors", size=7, blob_id="p" * 40, lfs=lfs),
                SimpleNamespace(rfilename="config.json", size=2, blob_id="q" * 40, lfs=None),
            ]
            return SimpleNamespace(sha="b" * 40, siblings=siblings)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=HfApi))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(read=lambda: f"{token}\n"))

    assert hub_snapshot.main(["list", "--repository=acme/tiny", "--revision=main"]) == 0

    assert calls == [token or False, ("acme/tiny", "main", True)]
    assert json.loads(capsys.readouterr().out) == {
        "commit": "b" * 40,
        "files": [
            {"path": "config.json", "size": 2, "sha256": "", "blob_id": "q" * 40},
            {"path": "model.safetensors", "size": 7, "sha256": "c" * 64, "blob_id": "p" * 40},
        ],
    }


def test_files_are_fetched_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[Any] = []

    def hf_hub_download(repository: str, name: str, **options: Any) -> None:
        if name == "b":
            message = "403 Client Error"
            raise PermissionError(message)
        calls.append((repository, name, options))

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(hf_hub_download=hf_hub_download))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(read=lambda: "hf_secret"))
    words = ["--repository=acme/tiny", "--revision=" + "b" * 40, f"--output={tmp_path}", "--file=a", "--file=b"]

    assert hub_snapshot.main(["fetch", *words]) == 1

    options = {"revision": "b" * 40, "local_dir": str(tmp_path), "token": "hf_secret"}
    assert calls == [("acme/tiny", "a", options)]
    said = capsys.readouterr()
    assert said.out == '{"fetched": "a"}\n'
    assert said.err == "PermissionError: 403 Client Error\n"


def test_the_hub_s_client_has_what_is_asked_of_it() -> None:
    """The newest version that is here; the images have older ones with the same parameters."""
    hub = pytest.importorskip("huggingface_hub")
    assert "files_metadata" in inspect.signature(hub.HfApi.model_info).parameters
    assert {"revision", "local_dir", "token"} <= set(inspect.signature(hub.hf_hub_download).parameters)
    assert re.match(r"\d+\.", hub.__version__)
