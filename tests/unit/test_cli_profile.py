"""Profiles are made from what files say; what they do not say has to be given, and nothing is overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from typer.testing import CliRunner, Result

from modelzone.cli.app import app
from modelzone.cli.exits import ExitCode
from modelzone.cli.profile_file import profile_name
from modelzone.errors import ModelzoneError
from modelzone.settings import Model, load_profile

ROOT = Path(__file__).resolve().parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-05,
    "attention_bias": False,
    "torch_dtype": "float16",
}
CARD = "---\nlicense: llama2\nextra_gated_prompt: Accept it.\n---\n# Llama\n"
GIVEN = ["--hub-id", "org/My_Llama-7B", "--revision", REVISION, "--license", "llama2", "--gated"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("environments", "models"):
        shutil.copytree(ROOT / folder, tmp_path / "project" / folder)
    (tmp_path / "project" / "cdk.json").write_text("{}")
    return tmp_path / "project"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "download" / "config.json"
    file.parent.mkdir()
    file.write_text(json.dumps(LLAMA))
    return file


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    """A folder of the hub's cache, whose files are links."""
    hub = tmp_path / "hub" / "models--meta-llama--Llama-2-7b-hf"
    folder = hub / "snapshots" / REVISION
    folder.mkdir(parents=True)
    (hub / "blobs").mkdir()
    for name, text in (("config.json", json.dumps(LLAMA)), ("README.md", CARD)):
        (hub / "blobs" / name).write_text(text)
        (folder / name).symlink_to(Path("../../blobs") / name)
    return folder


def add(project: Path, *words: object) -> Result:
    return CliRunner().invoke(app, ["--project", str(project), "profile", "add", *map(str, words)])


def test_a_snapshot_says_everything(project: Path, snapshot: Path) -> None:
    answer = add(project, snapshot)
    assert answer.exit_code == ExitCode.DONE, answer.output
    profile = load_profile(project, "llama-2-7b-hf")
    assert (profile.model.hub_id, profile.model.revision) == ("meta-llama/Llama-2-7b-hf", REVISION)
    assert (profile.model.license, profile.model.gated) == ("llama2", True)
    assert profile.serving.dtype == "fp16"
    plan = CliRunner().invoke(app, ["--project", str(project), "plan", "llama-2-7b-hf", "--json"])
    assert json.loads(plan.stdout)["fits"] is True


def test_the_choice_is_the_first_of_the_search_that_can_be_deployed(project: Path, config: Path) -> None:
    words = ["--sequence-length", "2048", "--engine", "tgi-neuronx"]
    search = CliRunner().invoke(app, ["plan", str(config), "--search", "--limit", "1000", "--json", *words])
    ranked = json.loads(search.stdout)["candidates"]
    best = next((row for row in ranked if row["deployable"]), ranked[0])
    written = json.loads(add(project, config, *GIVEN, *words, "--json").stdout)
    serving = written["profile"]["serving"]
    chosen = ("engine", "engine_version", "instance_type", "tensor_parallel_degree", "batch_size", "sequence_length")
    assert {name: serving[name] for name in chosen} == {name: best[name] for name in chosen}
    assert written["written"] is True
    assert Path(written["path"]) == project / "models" / "my-llama-7b.yaml"


def test_a_dry_run_writes_nothing(project: Path, config: Path) -> None:
    before = sorted(project.rglob("*"))
    answer = add(project, config, *GIVEN, "--dry-run")
    assert yaml.safe_load(answer.stdout)["name"] == "my-llama-7b"
    assert json.loads(add(project, config, *GIVEN, "--dry-run", "--json").stdout)["written"] is False
    assert sorted(project.rglob("*")) == before


def test_a_dry_run_says_that_the_file_exists(project: Path, config: Path) -> None:
    words = [config, *GIVEN, "--name", "mixtral-8x7b-instruct", "--dry-run"]
    answer = add(project, *words)
    assert answer.exit_code == ExitCode.DONE
    assert f"{project / 'models' / 'mixtral-8x7b-instruct.yaml'} exists" in answer.stderr
    assert "exists" not in add(project, *words, "--force").stderr
    assert "exists" not in add(project, config, *GIVEN, "--dry-run").stderr


def test_the_chat_template_is_written_or_its_absence_said(project: Path, config: Path) -> None:
    told = add(project, config, *GIVEN, "--dry-run").stderr
    assert "no chat template is set: the gateway completes text only" in told
    (config.parent / "chat_template.jinja").write_text("{{ messages }}")
    assert "the model's own is not read" in add(project, config, *GIVEN, "--dry-run").stderr
    names = get_args(get_args(get_type_hints(Model)["chat_template"])[0])
    assert all(name in CliRunner().invoke(app, ["profile", "add", "--help"]).stdout for name in names)
    answer = add(project, config, *GIVEN, "--chat-template", names[0])
    assert "chat template" not in answer.stderr
    assert load_profile(project, "my-llama-7b").model.chat_template == names[0]


def test_the_files_are_read_once(project: Path, snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_text = Path.read_text

    def counted(self: Path, *words: Any, **options: Any) -> str:
        read.append(self.name)
        return read_text(self, *words, **options)

    monkeypatch.setattr(Path, "read_text", counted)
    assert add(project, snapshot, "--dry-run").exit_code == ExitCode.DONE
    assert read.count("config.json") == 1
    assert read.count("README.md") == 1


def test_nothing_is_overwritten_without_force(project: Path, config: Path) -> None:
    file = project / "models" / "mixtral-8x7b-instruct.yaml"
    before = file.read_text()
    words = [config, *GIVEN, "--name", "mixtral-8x7b-instruct"]
    answer = add(project, *words)
    assert (answer.exit_code, file.read_text()) == (ExitCode.REFUSED, before)
    assert "exists; choose another --name, or replace it with --force" in answer.stderr
    assert add(project, *words, "--force").exit_code == ExitCode.DONE
    assert load_profile(project, "mixtral-8x7b-instruct").model.architecture.type == "llama"
    assert [path.suffix for path in (project / "models").iterdir() if path.suffix != ".yaml"] == []


def test_what_no_file_says_has_to_be_given(project: Path, config: Path) -> None:
    answer = add(project, config)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    for option in ("--hub-id", "--revision", "--license", "--gated or --no-gated"):
        assert option in answer.stderr.rpartition("fix: give ")[2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not valid JSON"),
        ("[]", "does not hold a mapping"),
        ("{}", "model_type"),
        (json.dumps({**LLAMA, "model_type": "lama"}), "lama"),
        (json.dumps({**LLAMA, "num_hidden_layers": "many"}), "num_hidden_layers"),
        ("[" * 100_000, "is not valid JSON"),
    ],
)
def test_a_config_that_cannot_be_read(project: Path, config: Path, content: str, says: str) -> None:
    config.write_text(content)
    answer = add(project, config, *GIVEN)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert says in answer.stderr
    assert str(config) in answer.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "Not A Name"], "name"),
        (["--revision", "main"], "revision"),
        (["--hub-id", "nothing"], "hub_id"),
        (["--chat-template", "no-such-template"], "chat_template"),
        (["--engine", "nothing"], "--engine nothing: does not exist"),
        (["--batch-size", "-1"], "--batch-size -1"),
        (["--instance", "ml.inf2.xlarge", "--sequence-length", "4096", "--batch-size", "64"], "nothing that this"),
    ],
)
def test_what_cannot_be_a_profile_is_refused(project: Path, config: Path, words: list[str], says: str) -> None:
    before = sorted(project.rglob("*"))
    answer = add(project, config, *GIVEN, *words)
    assert (answer.exit_code, answer.stdout) == (ExitCode.REFUSED, "")
    assert says in answer.stderr
    assert sorted(project.rglob("*")) == before


def test_a_folder_that_cannot_be_written(project: Path, config: Path) -> None:
    shutil.rmtree(project / "models")
    (project / "models").write_text("a file")
    answer = add(project, config, *GIVEN)
    assert answer.exit_code == ExitCode.REFUSED
    assert len(answer.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("hub_id", "name"),
    [
        ("org/My_Llama-7B", "my-llama-7b"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b-instruct-v0-1"),
        ("org/" + "a" * 31 + ".b", "a" * 31),
    ],
)
def test_names_come_from_hub_ids(hub_id: str, name: str) -> None:
    assert profile_name(hub_id) == name


def test_a_hub_id_that_makes_no_name() -> None:
    with pytest.raises(ModelzoneError, match="--name"):
        profile_name("org/7B")


def test_a_plan_of_a_file_needs_no_project(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = CliRunner().invoke(app, ["plan", str(config.parent), "--engine", "tgi-neuronx", "--json"])
    found: Any = json.loads(answer.stdout)
    assert found["model"]["parameters"] == 6_738_415_616
    assert found["serving"]["engine"] == "tgi-neuronx"
    assert found["fits"] is True


def test_a_folder_here_needs_no_dot(config: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = config.parent
    monkeypatch.chdir(folder.parent)
    outside = CliRunner().invoke(app, ["plan", folder.name, "--engine", "tgi-neuronx", "--json"])
    assert outside.exit_code == ExitCode.DONE, outside.output
    assert json.loads(outside.stdout)["model"]["type"] == "llama"


def test_a_profile_is_meant_before_a_folder_of_its_name(
    config: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(config.parent, project / "mixtral-8x7b-instruct")
    monkeypatch.chdir(project)
    for text, kind in (("mixtral-8x7b-instruct", "mixtral"), ("./mixtral-8x7b-instruct", "llama")):
        answer = CliRunner().invoke(app, ["plan", text, "--json"])
        assert json.loads(answer.stdout)["model"]["type"] == kind
