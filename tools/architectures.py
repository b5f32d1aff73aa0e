"""Checks the sizes of architectures against the models that their own libraries build, and prints the tables of them.

    python -m tools.architectures            # print the tables of docs/architectures.md; fails on any difference
    python -m tools.architectures --write    # put them into docs/architectures.md

Models are built without memory on torch's "meta" device, at their published sizes. Needs requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from modelzone.architectures import Architecture, Clip, Decoder, kv_cache_bytes, parameter_count, read_config

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "architectures.md"
WHEELS = {"open_clip_torch": "3.3.0", "timm": "1.0.31"}
EVA02 = ("EVA02-B-16", "EVA02-L-14", "EVA02-L-14-336", "EVA02-E-14", "EVA02-E-14-plus")
# Enough for every kind of layer that a model has: windows repeat after at most six.
SAMPLE_LAYERS = 8
TOKENS = (1, 100, 4096, 20_000)
# transformers' Falcon repeats key-value heads for every query head before it caches them; servers do not.
REPEATS_KEY_VALUE_HEADS = ("falcon",)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One model's sizes here and in the library that builds it: parameters, and KV-cache bytes by tokens."""

    name: str
    architecture: Architecture
    parameters: int
    cache: Mapping[int, int]

    def differences(self, architecture: Architecture | None = None) -> list[str]:
        """Say what an architecture (the model's own unless given) gets wrong."""
        of = architecture or self.architecture
        wrong = []
        if (count := parameter_count(of)) != self.parameters:
            wrong.append(f"{self.name}: {count:,} parameters, the library builds {self.parameters:,}")
        for tokens, held in self.cache.items():
            if (size := kv_cache_bytes(of, tokens) * repeats(of)) != held:
                wrong.append(f"{self.name}: {size:,} bytes of KV cache at {tokens:,} tokens, the library {held:,}")
        return wrong


def repeats(architecture: Architecture) -> int:
    """How often transformers stores each key-value head."""
    if isinstance(architecture, Decoder) and architecture.type in REPEATS_KEY_VALUE_HEADS:
        # With one shared head it stores that one.
        many = architecture.key_value_heads > 1
        return architecture.attention_heads // architecture.key_value_heads if many else 1
    return 1


@cache
def published_models() -> Mapping[str, Mapping[str, Any]]:
    """Configs by the name of the model."""
    models: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "tools" / "published_models.yaml").read_text())
    return models


def transformers_config(config: Mapping[str, Any], *, layers: int | None = None) -> Any:
    """Make transformers' config object, with fewer layers if asked."""
    from transformers import AutoConfig  # noqa: PLC0415 - takes seconds

    values = dict(config)
    for key in ("num_hidden_layers", "n_layer", "n_layers"):
        if layers is not None and key in values:
            values[key] = min(layers, values[key])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def build(config: Any) -> Any:
    """Build the model that a transformers config describes, without memory."""
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import AutoModel, AutoModelForCausalLM  # noqa: PLC0415

    kind = AutoModel if config.model_type == "clip" else AutoModelForCausalLM
    with torch.device("meta"):
        # 16-bit as it is served; a cache has the type of the model.
        return kind.from_config(config, dtype=torch.bfloat16)


def count(model: Any) -> int:
    """Count parameters; tied ones are listed once."""
    return sum(parameter.numel() for parameter in model.parameters())


def cache_sizes(config: Mapping[str, Any], tokens: Sequence[int]) -> dict[int, int]:
    """Bytes of the cache tensors that transformers allocates for each number of tokens.

    A forward pass through a few layers shows what one layer caches; then the cache of the whole model is allocated,
    for which transformers decides, layer by layer, how many tokens it keeps.
    """
    import torch  # noqa: PLC0415 - takes seconds
    from transformers import DynamicCache, StaticCache  # noqa: PLC0415

    sample = transformers_config(config, layers=SAMPLE_LAYERS)
    seen = DynamicCache(config=sample)
    with torch.no_grad():
        build(sample)(torch.zeros(1, 1, dtype=torch.long, device="meta"), past_key_values=seen, use_cache=True)
    shapes: dict[bool, set[tuple[torch.Size, torch.Size]]] = {}
    for layer in seen.layers:
        shapes.setdefault(layer.is_sliding, set()).add((layer.keys.shape, layer.values.shape))
    sizes = {}
    for number in tokens:
        whole = StaticCache(config=transformers_config(config), max_cache_len=number)
        for layer in whole.layers:
            ((keys, values),) = shapes[layer.is_sliding]
            layer.lazy_initialization(
                torch.empty(keys, dtype=torch.bfloat16, device="meta"),
                torch.empty(values, dtype=torch.bfloat16, device="meta"),
            )
        sizes[number] = sum(layer.keys.nbytes + layer.values.nbytes for layer in whole.layers)
    return sizes


def check_transformers(name: str) -> Check:
    """Compare one published model."""
    config = published_models()[name]
    architecture = read_config(config, source=name)
    return Check(
        name=name,
        architecture=architecture,
        parameters=count(build(transformers_config(config))),
        cache={} if isinstance(architecture, Clip) else cache_sizes(config, TOKENS),
    )


def check_open_clip(wheels: Sequence[Path]) -> list[Check]:
    """Compare the EVA-02 models, which open_clip builds in a process of its own."""
    program = [sys.executable, str(ROOT / "tools" / "open_clip_counts.py"), *EVA02]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, wheels))}
    done = subprocess.run(program, check=True, capture_output=True, text=True, env=environment, timeout=300)
    return [
        Check(
            name=name,
            architecture=read_config({"model_cfg": found["config"]}, source=name),
            parameters=found["parameters"],
            cache={},
        )
        for name, found in json.loads(done.stdout).items()
    ]


def download_wheels() -> list[Path]:
    """Fetch open_clip and timm without their dependencies (5 MB): what they need beyond torch only handles images."""
    folder = ROOT / ".build" / "wheels"
    paths = [folder / f"{name}-{version}-py3-none-any.whl" for name, version in WHEELS.items()]
    missing = [f"{path.name.split('-')[0]}=={path.name.split('-')[1]}" for path in paths if not path.exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), *missing]
        subprocess.run(command, check=True, capture_output=True, timeout=180)
    return paths


def row(check: Check) -> str:
    """Write a table's line."""
    a = check.architecture
    cells = [check.name, f"`{a.type}`", f"{parameter_count(a):,}"]
    if isinstance(a, Decoder):
        window = f"{a.windowed_layers} of {a.layers} keep {a.sliding_window:,} tokens" if a.windowed_layers else ""
        cells += [f"{kv_cache_bytes(a, 1):,}", window]
    return f"| {' | '.join(cells)} |"


def tables(transformers_checks: Iterable[Check], open_clip_checks: Iterable[Check]) -> dict[str, str]:
    """Make the tables by the name of the markers in the docs."""
    from transformers import __version__ as transformers_version  # noqa: PLC0415 - takes seconds

    checks = list(transformers_checks)
    versions = " and ".join(f"{name} {version}" for name, version in WHEELS.items())
    head = "| model | type | parameters |"
    parts = {
        "decoders": (
            f"Checked against transformers {transformers_version}:",
            f"{head} KV bytes per token | layers with a window |\n|---|---|---:|---:|---|",
            [check for check in checks if isinstance(check.architecture, Decoder)],
        ),
        "clip": (
            f"Checked against transformers {transformers_version}:",
            f"{head}\n|---|---|---:|",
            [check for check in checks if isinstance(check.architecture, Clip)],
        ),
        "eva02": (f"Checked against {versions}:", f"{head}\n|---|---|---:|", list(open_clip_checks)),
    }
    return {
        name: "\n".join([title, "", heading, *map(row, lines)])
        for name, (title, heading, lines) in parts.items()
        if lines
    }


def documented(text: str, name: str) -> tuple[str, str, str]:
    """Split a document at the markers of a table: before, table, after."""
    start, end = f"<!-- {name}: tools/architectures.py -->\n", f"\n<!-- end of {name} -->"
    before, rest = text.split(start)
    table, after = rest.split(end)
    return before + start, table, end + after


def main() -> int:
    """Check everything and print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/architectures.md")
    write = parser.parse_args().write
    with_transformers = [check_transformers(name) for name in published_models()]
    with_open_clip = check_open_clip(download_wheels())
    wrong = [line for check in with_transformers + with_open_clip for line in check.differences()]
    if wrong:
        sys.stderr.write("\n".join(wrong) + "\n")
        return 1
    made = tables(with_transformers, with_open_clip)
    if write:
        text = DOCS.read_text(encoding="utf-8")
        for name, table in made.items():
            before, _, after = documented(text, name)
            text = before + table + after
        DOCS.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write("\n\n".join(made.values()) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
