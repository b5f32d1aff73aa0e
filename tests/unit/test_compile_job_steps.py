"""The steps one by one, where the whole program cannot reach."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
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
from botocore.exceptions import ClientError

from compile_job.container import hub_snapshot
from compile_job.errors import StepError, Stopped
from compile_job.job import DirectoryWeights, Job, artifact_prefix
from compile_job.processes import run, run_quietly
from compile_job.signatures import remedy
from compile_job.steps.devices import check_devices, list_devices
from compile_job.steps.export import export_model
from compile_job.steps.publish import check_writable, is_published, publish_artifact
from compile_job.steps.verify import verify_artifact
from compile_job.steps.weights import check_snapshot

FACTS = {
    "engine": "tgi-neuronx",
    "engine_version": "0.0.25",
    "model_id": "acme/Tiny",
    "model_revision": "main",
    "instance_family": "inf2",
    "tensor_parallel_degree": "8",
    "batch_size": "1",
    "sequence_length": "1024",
    "dtype": "fp16",
}


def job(**overrides: Any) -> Job:
    values: dict[str, Any] = {
        "facts": FACTS,
        "bucket": "models",
        "prefix": artifact_prefix(FACTS),
        "image": "tgi:1",
        "runner": "docker",
        "weights": DirectoryWeights(path=Path("/weights")),
        "devices": 0,
        "export_command": ("optimum-cli", "--model", "{model}", "{output}"),
        "work_dir": Path("/work"),
        "min_free_gib": 0,
        "min_memory_gib": 0,
        "region": "us-east-1",
    }
    return Job(**{**values, **overrides})


def command(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!{sys.executable}\n{text}", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IEXEC)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in ("neuron10", "neuron2", "neuron0", "null", "neuron_x", "neuron"):
        (folder / name).touch()
    return folder


def test_devices_in_their_order(devices: Path) -> None:
    assert [path.name for path in list_devices(devices)] == ["neuron0", "neuron2", "neuron10"]


def test_missing_devices_are_counted(devices: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert check_devices(3, folder=devices) == {"devices": 3}
    with pytest.raises(StepError, match=r"3 Neuron devices under .*, expected 6: check that the instance type"):
        check_devices(6, folder=devices)


@pytest.mark.parametrize(
    ("answer", "holder"),
    [
        ([{"neuron_device": 0, "neuron_processes": [{"pid": 42, "command": "python"}]}], "42"),
        ([{"neuron_device": 0, "neuron_processes": []}], None),
        ([{"neuron_device": 0}], None),
        ({"other": "format"}, None),
        ("not json", None),
    ],
)
def test_held_devices_are_refused(
    devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, holder: str | None
) -> None:
    text = answer if isinstance(answer, str) else json.dumps(answer)
    command(tmp_path / "bin", "neuron-ls", f"print({text!r})")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))

    if holder is None:
        check_devices(1, folder=devices)
    else:
        with pytest.raises(StepError, match=f"held by process {holder}"):
            check_devices(1, folder=devices)


def test_export_passes_every_device_and_keeps_graphs(
    devices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "calls"
    command(tmp_path / "bin", "docker", f"import sys; open({str(log)!r}, 'a').write(repr(sys.argv[1:]) + chr(10))")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    output = tmp_path / "output" / "key"
    output.mkdir(parents=True)
    (output / "left-over").touch()

    export_model(job(), model=tmp_path / "weights", output=output, cache=tmp_path / "cache", device_folder=devices)

    call = log.read_text(encoding="utf-8")
    for number in (0, 2, 10):
        assert f"'--device={devices}/neuron{number}'" in call
    assert f"type=bind,source={tmp_path}/weights,target=/modelzone/weights" in call
    assert "NEURON_COMPILE_CACHE_URL=/modelzone/cache" in call
    assert not output.exists(), "what an earlier run left would get into the artifact"
    assert (tmp_path / "cache").is_dir()


def test_export_command_that_is_not_there(tmp_path: Path) -> None:
    wrong = job(runner="process", export_command=("no-such-command", "{model}", "{output}"))

    with pytest.raises(StepError, match="there is no command 'no-such-command'"):
        export_model(wrong, model=tmp_path, output=tmp_path / "o", cache=tmp_path / "c")


def test_secret_is_starred_in_output(capsys: pytest.CaptureFixture[str]) -> None:
    program = "import sys; token = sys.stdin.read(); print('got', token); print('last')"

    done = run([sys.executable, "-c", program], secret="hf_secret")

    assert done.tail == ("got ***", "last")
    assert capsys.readouterr().out == "got ***\nlast\n"
    assert run_quietly([sys.executable, "-c", program], secret="hf_secret").tail == ("got ***", "last")


def test_exit_status_and_last_line() -> None:
    done = run([sys.executable, "-c", "import sys; print('why'); print(); sys.exit(7)"])

    assert (done.status, done.last_line) == (7, "why")


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


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2024 [F137] neuronx-cc was forcibly killed", "too little memory"),
        ("Estimated peak HBM usage (21.8) exceeds 16GB", "raise the tensor parallel degree"),
        ("Unsupported topology. Supported number of Neuron Cores is 1, 2", "not possible on this instance"),
        ('adding custom device "/dev/neuron0": no such file or directory', "device is missing"),
        ("Cannot access gated repo for url https://", "licence"),
        ("OSError: [Errno 28] No space left on device", "larger root volume"),
        ("everything is fine", ""),
    ],
)
def test_known_failures_have_a_remedy(line: str, words: str) -> None:
    found = remedy(["before", line, "after"])

    assert words in found
    assert bool(found) == bool(words)


def snapshot(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", *names):
        (folder / name).write_text("{}", encoding="utf-8")
    return folder


def test_snapshot_of_one_file(tmp_path: Path) -> None:
    check_snapshot(snapshot(tmp_path, "model.safetensors"))
    check_snapshot(snapshot(tmp_path, "pytorch_model.bin"))


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_incomplete_snapshot_names_what_is_missing(tmp_path: Path, missing: str) -> None:
    (snapshot(tmp_path, "model.safetensors") / missing).unlink()

    with pytest.raises(StepError, match=missing):
        check_snapshot(tmp_path)


def test_every_file_of_the_index_must_be_there(tmp_path: Path) -> None:
    names = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    folder = snapshot(tmp_path, *names)
    index = {"weight_map": {f"layer.{number}": name for number, name in enumerate(names * 2)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    check_snapshot(folder)
    (folder / names[1]).unlink()
    with pytest.raises(StepError, match=r"model-00002-of-00003\.safetensors missing"):
        check_snapshot(folder)


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """What optimum-neuron 0.0.25 writes."""
    folder = tmp_path / "artifact"
    (folder / "compiled").mkdir(parents=True)
    (folder / "compiled" / "graph.neff").touch()
    (folder / "tokenizer.json").touch()
    snapshot(folder / "checkpoint", "model.safetensors")
    write_config(folder)
    return folder


def write_config(folder: Path, **changes: Any) -> None:
    neuron = {
        "task": "text-generation",
        "batch_size": 1,
        "num_cores": 8,
        "auto_cast_type": "fp16",
        "sequence_length": 1024,
        "compiler_type": "neuronx-cc",
        "compiler_version": "2.15.128",
        "checkpoint_id": None,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps({"model_type": "mixtral", "neuron": neuron}), encoding="utf-8")


def test_artifact_as_ordered(artifact: Path) -> None:
    assert verify_artifact(job(), artifact) == {"compiler": "neuronx-cc 2.15.128", "graphs": 1}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 4}, "neuron.batch_size is 4, the job orders batch_size 1"),
        ({"sequence_length": 2048}, "neuron.sequence_length is 2048, the job orders sequence_length 1024"),
        ({"num_cores": 2}, "neuron.num_cores is 2, the job orders tensor_parallel_degree 8"),
        ({"auto_cast_type": "bf16"}, "neuron.auto_cast_type is 'bf16', the job orders dtype 'fp16'"),
        ({"task": "fill-mask"}, "neuron.task is 'fill-mask'"),
        ({"compiler_type": "cpu-stand-in"}, "would not run on Neuron devices"),
        ({"compiler_type": None}, "neuron.compiler_type is None, expected 'neuronx-cc'"),
    ],
)
def test_artifact_that_was_not_ordered(artifact: Path, changes: dict[str, Any], words: str) -> None:
    write_config(artifact, **changes)

    with pytest.raises(StepError, match=re.escape(words)):
        verify_artifact(job(), artifact)


def test_stand_in_is_for_processes_only(artifact: Path) -> None:
    write_config(artifact, compiler_type="cpu-stand-in")

    assert verify_artifact(job(runner="process"), artifact)["compiler"] == "cpu-stand-in 2.15.128"


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "the export did not finish"),
        ("compiled/graph.neff", "nothing was compiled"),
        ("tokenizer.json", "could not load the model's tokenizer"),
        ("checkpoint", "the endpoint would need the hub for its weights"),
        ("checkpoint/model.safetensors", "is incomplete, model.safetensors missing"),
    ],
)
def test_artifact_that_is_not_whole(artifact: Path, missing: str, words: str) -> None:
    path = artifact / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

    with pytest.raises(StepError, match=re.escape(words)):
        verify_artifact(job(), artifact)


def test_model_that_was_not_exported(artifact: Path) -> None:
    (artifact / "config.json").write_text("{}", encoding="utf-8")

    with pytest.raises(StepError, match="no key 'neuron'"):
        verify_artifact(job(), artifact)


def test_one_copy_of_the_weights_is_downloaded() -> None:
    mixtral = ["config.json", "model-1.safetensors", "consolidated.00.pt", "tokenizer.model", "pytorch_model.bin"]

    allow, ignore = hub_snapshot.choose_patterns(mixtral)

    assert "*.safetensors" in allow
    assert "*.bin" not in allow
    assert "consolidated*" in ignore
    assert "*.bin" in hub_snapshot.choose_patterns(["config.json", "pytorch_model.bin"])[0]
    assert "*.bin" in hub_snapshot.choose_patterns(["consolidated.safetensors", "pytorch_model.bin"])[0]


@pytest.mark.parametrize("token", ["hf_secret", ""])
def test_hub_client_gets_the_pinned_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], token: str
) -> None:
    calls: list[Any] = []

    class HfApi:
        def __init__(self, token: str | None) -> None:
            calls.append(token)

        def model_info(self, repository: str, *, revision: str) -> Any:
            calls.append((repository, revision))
            return SimpleNamespace(sha="b" * 40, siblings=[SimpleNamespace(rfilename="model.safetensors")])

    def snapshot_download(repository: str, **options: Any) -> None:
        calls.append((repository, options))
        (tmp_path / ".cache").mkdir()

    monkeypatch.setitem(
        sys.modules, "huggingface_hub", SimpleNamespace(HfApi=HfApi, snapshot_download=snapshot_download)
    )
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(read=lambda: f"{token}\n"))

    assert hub_snapshot.main(["--repository=acme/tiny", "--revision=main", f"--output={tmp_path}"]) == 0

    assert calls[0] == (token or None)
    assert calls[1] == ("acme/tiny", "main")
    repository, options = calls[2]
    assert (repository, options["revision"], options["local_dir"]) == ("acme/tiny", "b" * 40, str(tmp_path))
    assert options["token"] == (token or False)
    assert not (tmp_path / ".cache").exists()
    assert capsys.readouterr().out.splitlines()[-1] == "b" * 40


class Refusing:
    """An S3 that refuses one kind of call."""

    def __init__(self, call: str, code: str) -> None:
        self._call, self._code = call, code

    def __getattr__(self, name: str) -> Any:
        def method(**_: Any) -> Any:
            if name == self._call:
                raise ClientError({"Error": {"Code": self._code, "Message": "no"}}, name)
            return {"UploadId": "1"}

        return method


def test_forbidden_reading_is_no_absence() -> None:
    assert is_published(job(), s3=Refusing("get_object", "NoSuchKey")) is False  # type: ignore[arg-type]
    with pytest.raises(StepError, match=r"AccessDenied.*needs s3:GetObject"):
        is_published(job(), s3=Refusing("get_object", "AccessDenied"))  # type: ignore[arg-type]


def test_forbidden_writing_is_noticed_before_hours_of_work() -> None:
    check_writable(job(), s3=Refusing("", ""))  # type: ignore[arg-type]
    with pytest.raises(StepError, match=r"AccessDenied.*needs s3:PutObject"):
        check_writable(job(), s3=Refusing("create_multipart_upload", "AccessDenied"))  # type: ignore[arg-type]


class SlowS3:
    """Uploads go on for as long as nobody stops them."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.ended: list[str] = []
        self.put: list[str] = []

    def head_object(self, **_: Any) -> Any:
        raise ClientError({"Error": {"Code": "404", "Message": "no"}}, "HeadObject")

    def upload_file(self, _file: str, _bucket: str, key: str, *, Callback: Any, **_: Any) -> None:  # noqa: N803
        self.begun.set()
        try:
            for _step in range(600):
                Callback(1)
                time.sleep(0.05)
        finally:
            self.ended.append(key)

    def put_object(self, *, Key: str, **_: Any) -> None:  # noqa: N803
        self.put.append(Key)


def test_signal_during_upload_stops_transfers_and_leaves_no_manifest(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"file-{number}").write_bytes(b"x")
    slow = SlowS3()

    started = time.monotonic()
    with pytest.raises(Stopped), stopped_after(0.5):
        publish_artifact(job(), tmp_path, s3=slow, producer={})  # type: ignore[arg-type]

    assert time.monotonic() - started < 5
    assert slow.begun.is_set()
    assert len(slow.ended) == 4, "files that were waiting must not be begun"
    assert slow.put == []


def test_refused_upload_ends_the_others(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / f"file-{number}").write_bytes(b"x")
    slow = SlowS3()
    patient = slow.upload_file

    def upload_file(file: str, bucket: str, key: str, **options: Any) -> None:
        if key.endswith("file-3"):
            slow.begun.wait(5)
            raise ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "PutObject")
        patient(file, bucket, key, **options)

    slow.upload_file = upload_file  # type: ignore[method-assign,assignment]

    started = time.monotonic()
    with pytest.raises(ClientError, match="AccessDenied"):
        publish_artifact(job(), tmp_path, s3=slow, producer={})  # type: ignore[arg-type]

    assert time.monotonic() - started < 5
    assert slow.put == []
