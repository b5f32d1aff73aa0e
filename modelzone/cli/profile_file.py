"""Model profiles as files: made from what a hub snapshot says, checked by reading them again, written at once."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelzone.errors import ModelzoneError

if TYPE_CHECKING:
    import msgspec

    from modelzone.settings.model_profile import ModelProfile

__all__ = ["profile_name", "profile_text", "read_back", "write_profile"]

_NAME_CHARACTERS = 32


def profile_name(hub_id: str) -> str:
    """A profile's name from a hub id: ``Org/My_Model-7B`` becomes ``my-model-7b``.

    Raises
    ------
    ModelzoneError
        No valid name comes of it.
    """
    name = re.sub(r"[^a-z0-9]+", "-", hub_id.rpartition("/")[2].lower()).strip("-")
    name = name[:_NAME_CHARACTERS].rstrip("-")
    if not re.match("[a-z]", name):
        raise ModelzoneError(f"no profile name can be made of {hub_id}; give one with --name")
    return name


def profile_text(profile: ModelProfile, *, comment: str) -> str:
    """The profile as YAML, without what is the default anyway."""
    import yaml  # noqa: PLC0415

    data = {
        "name": profile.name,
        "description": profile.description,
        "model": _without_defaults(profile.model),
        "serving": _without_defaults(profile.serving),
    }
    return f"# {comment}\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)


def _without_defaults(value: msgspec.Struct) -> dict[str, Any]:
    import msgspec  # noqa: PLC0415

    tag = value.__struct_config__.tag
    found: dict[str, Any] = {str(value.__struct_config__.tag_field): tag} if tag is not None else {}
    for field in msgspec.structs.fields(value):
        given = getattr(value, field.name)
        default = field.default_factory() if field.default_factory is not msgspec.NODEFAULT else field.default
        if given != default:
            nested = isinstance(given, msgspec.Struct)
            found[field.encode_name] = _without_defaults(given) if nested else msgspec.to_builtins(given)
    return found


def read_back(profile: ModelProfile, text: str) -> None:
    """Read the text as ``modelzone`` would and compare.

    Raises
    ------
    ModelzoneError
        It is refused, or means something else.
    """
    from modelzone.settings.loading import load_profile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        (models / f"{profile.name}.yaml").write_text(text, encoding="utf-8")
        if load_profile(Path(folder), profile.name) != profile:
            raise ModelzoneError(f"the profile {profile.name} would be read differently; nothing was written")


def write_profile(path: Path, text: str, *, force: bool) -> None:
    """Write the file at once; an existing one only with `force`.

    Raises
    ------
    ModelzoneError
        There is one already.
    """
    if path.exists() and not force:
        raise ModelzoneError(f"{path} exists; choose another --name, or replace it with --force")
    path.parent.mkdir(exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
        temporary = Path(file.name)
        try:
            file.write(text)
            file.flush()
            temporary.chmod(0o644)
            os.replace(temporary, path)  # noqa: PTH105 - says that it replaces
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
