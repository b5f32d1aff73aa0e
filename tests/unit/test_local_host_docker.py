"""The docker stand-in: its command line, and how paths of a container become paths of the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelzone.engines import ENGINES, image_uri
from modelzone.local.host.docker import Refused, parse_run, translate
from modelzone.local.host.images import find_image, image_digest, images_of
from modelzone.local.host.optimum_cli import optimum_version

IMAGE = "763104351884.dkr.ecr.us-east-1.amazonaws.com/djl-inference:0.33.0-tensorrtllm0.21.0-cu128"


def test_a_command_line_as_the_job_writes_it(tmp_path: Path) -> None:
    options = parse_run(
        [
            *("--rm", "--init", "--interactive", "--name", "export-1", "--entrypoint", "optimum-cli"),
            *("--mount", f"type=bind,source={tmp_path},target=/modelzone/weights"),
            *("--device=/dev/neuron0", "--device=/dev/neuron1", "--env", "A=b=c", "--shm-size=8g", "--gpus", "all"),
            *("image:tag", "export", "neuron", "--rm"),
        ]
    )
    assert (options.image, options.arguments) == ("image:tag", ["export", "neuron", "--rm"])
    assert options.flags == {"rm", "init", "interactive"}
    assert (options.last("name"), options.last("entrypoint")) == ("export-1", "optimum-cli")
    assert options.values["device"] == ["/dev/neuron0", "/dev/neuron1"]
    assert options.environment == {"A": "b=c"}
    assert options.mounts == [(str(tmp_path), "/modelzone/weights")]


def test_a_variable_without_a_value_is_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "own")
    assert parse_run(["-it", "-e", "GIVEN", "image"]).environment == {"GIVEN": "own"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--made-up", "image"], "unknown flag: --made-up"),
        (["--name"], "flag needs an argument"),
        (["--rm"], "requires at least 1 argument"),
        (["--mount", "type=bind,source=/made/up,target=/x", "image"], "bind source path does not exist: /made/up"),
        (["--mount", "type=volume,source=x,target=/x", "image"], "only bind mounts"),
    ],
)
def test_what_docker_refuses(arguments: list[str], problem: str) -> None:
    with pytest.raises(Refused, match=problem) as refused:
        parse_run(arguments)
    assert refused.value.status == 125


MOUNTS = [("/host/w", "/modelzone/weights"), ("/host/w/more", "/modelzone/weights/more"), ("/host/o", "/out")]


@pytest.mark.parametrize(
    ("word", "translated"),
    [
        ("/modelzone/weights", "/host/w"),
        ("/modelzone/weights/a/b.json", "/host/w/a/b.json"),
        ("/modelzone/weights/more/a", "/host/w/more/a"),
        ("--output=/out/x", "--output=/host/o/x"),
        ("a,/out,b", "a,/host/o,b"),
        ("/outer", "/outer"),
        ("/elsewhere/out", "/elsewhere/out"),
        ("/modelzone/weights-2", "/modelzone/weights-2"),
        ("out", "out"),
    ],
)
def test_paths_are_translated(word: str, translated: str) -> None:
    assert translate(word, MOUNTS) == translated


def test_images_are_known_by_tag_and_by_digest() -> None:
    image = find_image(IMAGE)
    assert image is not None
    assert (image.repository, image.tag) == ("djl-inference", "0.33.0-tensorrtllm0.21.0-cu128")
    assert find_image(image.by_digest) == image
    assert find_image(f"{IMAGE}@{image_digest(IMAGE)}") == image
    assert find_image(f"{image.name}@sha256:{'0' * 64}") is None
    assert find_image(IMAGE + "x") is None
    assert find_image("ghcr.io/predibase/lorax:0.12.1") is not None
    assert len({known.digest for known in images_of("us-east-1")}) == len(images_of("us-east-1"))


def test_the_version_inside_an_image() -> None:
    versions = {
        (engine.name, version): optimum_version(image_uri(engine=engine.name, version=version, region="us-east-1"))
        for engine in ENGINES.values()
        for version in engine.versions
        if engine.name in {"tgi-neuronx", "vllm-neuronx"}
    }
    assert versions == {
        ("tgi-neuronx", "0.0.25"): "0.0.25",
        ("tgi-neuronx", "0.0.28"): "0.0.28",
        ("tgi-neuronx", "3.3.6"): "0.3.0",
        ("vllm-neuronx", "0.4.4"): "0.4.4",
        ("vllm-neuronx", "0.4.5"): "0.4.5",
    }
    assert optimum_version(IMAGE) is None
