"""Reads a model's facts from files on disk: a ``config.json``, a model folder, or the cache of the Hugging Face Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import yaml

from modelzone.architectures.quantization import quantization_of
from modelzone.architectures.reading import Architecture, read_config
from modelzone.errors import SettingsError

__all__ = ["ModelFacts", "profile_model", "read_model"]

Dtype = Literal["fp16", "bf16", "fp32"]

# What transformers and open_clip call the file with a model's numbers.
_CONFIGS = ("config.json", "open_clip_config.json")
_CACHE_FOLDER = re.compile(r"models--(?P<owner>[\w.-]+?)--(?P<name>[\w.-]+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DTYPES: Mapping[str, Dtype] = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """What the files of a model say; None where they do not say it.

    Attributes
    ----------
    source
        The config file.
    hub_id, revision
        From the folders of the hub's cache: ``models--<owner>--<name>/snapshots/<commit>``.
    dtype
        What the weights are stored in.
    quantization
        By the names of profiles.
    has_chat_template
        Whether the tokenizer has one. The gateway does not read it; it has templates of its own.
    license
        From the front matter of the model card.
    gated
        True where the model card asks for terms; None otherwise, because a gate can be set on the hub without a word
        in the card.
    """

    source: Path
    architecture: Architecture
    hub_id: str | None
    revision: str | None
    dtype: Dtype | None
    quantization: str | None
    has_chat_template: bool
    license: str | None
    gated: bool | None


def read_model(path: Path) -> ModelFacts:
    """Read what `path` says of a model: a config file, a folder with one, or a model's folder in the hub's cache.

    Raises
    ------
    SettingsError
        There is no config, it is not readable, or it is not a model that can be sized.
    """
    # Not resolved: in the hub's cache a config is a link to a file whose name says nothing.
    file = _config_file(path.absolute())
    config = _read_json(file)
    source = str(file)
    hub_id, revision = _place(file.parent)
    stored = config.get("dtype", config.get("torch_dtype"))
    card = _card(file.parent / "README.md")
    return ModelFacts(
        source=file,
        architecture=read_config(config, source=source),
        hub_id=hub_id,
        revision=revision,
        dtype=_DTYPES.get(stored) if isinstance(stored, str) else None,
        quantization=quantization_of(config, source=source),
        has_chat_template=_has_chat_template(file.parent),
        license=_license(card),
        gated=True if any(str(key).startswith("extra_gated") for key in card) else None,
    )


def profile_model(
    facts: ModelFacts,
    *,
    hub_id: str | None = None,
    revision: str | None = None,
    license: str | None = None,  # noqa: A002 - the name that the profile has
    gated: bool | None = None,
) -> dict[str, Any]:
    """Make the ``model`` mapping of a profile; what is given here wins over what the files say.

    Raises
    ------
    SettingsError
        The files do not say something that a profile needs; names the option that gives it.
    """
    known: dict[str, Any] = {
        "hub_id": hub_id or facts.hub_id,
        "revision": revision or facts.revision,
        "license": license or facts.license,
        "gated": facts.gated if gated is None else gated,
    }
    options = {
        "hub_id": "--hub-id OWNER/NAME",
        "revision": "--revision COMMIT (40 hex digits)",
        "license": "--license NAME",
        "gated": "--gated or --no-gated (whether downloads need a token)",
    }
    if missing := [key for key, value in known.items() if value is None]:
        raise SettingsError(
            source=str(facts.source),
            problem=f"does not say the model's {', '.join(missing)}",
            fix=f"give {', '.join(options[key] for key in missing)}",
        )
    return known | {"architecture": msgspec.to_builtins(facts.architecture)}


def _config_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise SettingsError(
            source=str(path), problem="does not exist", fix="give a config.json or a folder that holds one"
        )
    folder = _snapshot(path) if (path / "snapshots").is_dir() else path
    for name in _CONFIGS:
        if (folder / name).is_file():
            return folder / name
    raise SettingsError(
        source=str(folder), problem=f"holds no {' or '.join(_CONFIGS)}", fix="give the folder of one model"
    )


def _snapshot(model: Path) -> Path:
    """Choose the snapshot in a model's cache folder: the one that ``main`` points to, or the only one."""
    main = model / "refs" / "main"
    if main.is_file() and (folder := model / "snapshots" / main.read_text(encoding="utf-8").strip()).is_dir():
        return folder
    folders = sorted(folder for folder in (model / "snapshots").iterdir() if folder.is_dir())
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders) or "none"
        raise SettingsError(
            source=str(model), problem=f"has no snapshot of main to choose; there are: {names}", fix="give one of them"
        )
    return folders[0]


def _place(folder: Path) -> tuple[str | None, str | None]:
    model = _CACHE_FOLDER.fullmatch(folder.parent.parent.name)
    if folder.parent.name != "snapshots" or model is None or not _COMMIT.fullmatch(folder.name):
        return None, None
    return f"{model['owner']}/{model['name']}", folder.name


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(
            source=str(file), problem=f"is not valid JSON: {error}", fix="download the file again"
        ) from None
    if not isinstance(data, dict):
        raise SettingsError(source=str(file), problem="does not hold a mapping", fix="give a model's config.json")
    return data


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    tokenizer = folder / "tokenizer_config.json"
    return tokenizer.is_file() and bool(_read_json(tokenizer).get("chat_template"))


def _card(card: Path) -> Mapping[Any, Any]:
    """Read the front matter of a model card; empty where there is none."""
    if not card.is_file():
        return {}
    matter = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", card.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    try:
        data = yaml.safe_load(matter[1]) if matter else None
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _license(card: Mapping[Any, Any]) -> str | None:
    """Find the licence's name; a licence that the hub has no short name for is "other", with a name of its own."""
    name = card.get("license_name") if card.get("license") == "other" else card.get("license")
    return name if isinstance(name, str) else None
