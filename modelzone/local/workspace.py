"""Where the embedded AWS keeps its state, and what is in it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from modelzone.errors import ModelzoneError

__all__ = ["ACCOUNT", "EmulatorState", "Workspace", "free_port"]

# MiniStack takes a 12-digit access key id for the account id.
ACCOUNT = "000000000000"
_FIRST_PORT = 4580
_LAST_PORT = 4680


@dataclass(frozen=True, kw_only=True)
class EmulatorState:
    """A started emulator. ``started`` tells its process from a later one with the same pid (seconds since 1970)."""

    pid: int
    port: int
    started: float

    @property
    def url(self) -> str:
        """The endpoint of all its AWS services."""
        return f"http://localhost:{self.port}"


@dataclass(frozen=True)
class Workspace:
    """The folder ``.modelzone/local`` of a checkout.

    Parameters
    ----------
    root
        The checkout.
    folder
        The state folder; tests give their own, so that they do not meet the user's.
    """

    root: Path
    folder: Path

    @classmethod
    def of(cls, root: Path) -> Workspace:
        """The workspace of a checkout, or the one that MODELZONE_LOCAL_STATE names."""
        return cls(root, Path(os.environ.get("MODELZONE_LOCAL_STATE") or root / ".modelzone" / "local").resolve())

    @property
    def logs(self) -> Path:
        """Logs of the emulator, the functions, the model servers and the CDK CLI."""
        return self.folder / "logs"

    @property
    def assembly(self) -> Path:
        """The synthesised cloud assembly."""
        return self.folder / "cdk.out"

    @property
    def first_port(self) -> int:
        """Where the emulator's port is looked for first: another one for each workspace, that two may start at once."""
        return _FIRST_PORT + zlib.crc32(str(self.folder).encode()) % (_LAST_PORT - _FIRST_PORT)

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"

    def read(self) -> EmulatorState | None:
        """The emulator that was started last, if it was not stopped since."""
        try:
            return EmulatorState(**json.loads(self._state_file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError):
            # Half written by a run that was killed: the processes are found through their environment instead.
            return None

    def write(self, state: EmulatorState) -> None:
        """Remember a started emulator."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self._state_file.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
        temporary.replace(self._state_file)

    def forget(self) -> None:
        """Forget the emulator."""
        self._state_file.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace: two runs at once would deploy over one another.

        Raises
        ------
        ModelzoneError
            Another run holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ModelzoneError(
                    f"another run is using {self.folder}; wait for it to end, or stop it, and try again"
                ) from None
            yield


def free_port(preferred: int) -> int:
    """A port on the loopback interface that nobody listens on, the preferred one if it is free.

    Raises
    ------
    ModelzoneError
        None of the range is free.
    """
    span = _LAST_PORT - _FIRST_PORT
    for port in (preferred, *(_FIRST_PORT + (preferred + step) % span for step in range(span))):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ModelzoneError(f"no free port between {_FIRST_PORT} and {_LAST_PORT}; stop what uses them and try again")
