"""Run a program inside the serving container."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compile_job.processes import Finished, run, run_quietly

__all__ = ["Container"]


@dataclass(frozen=True)
class Container:
    """How the serving image is run for one purpose.

    Attributes
    ----------
    mounts
        Folder on the host, path in the container. No secrets: `docker inspect` shows mounts and variables.
    options
        Further words for `docker run`: the accelerator's devices.
    check
        Called while a program runs, which is ended when this raises.
    """

    image: str
    name: str
    mounts: Sequence[tuple[Path, str]]
    options: Sequence[str] = ()
    variables: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[], None] | None = None

    def run(
        self, command: Sequence[str], *, secret: str = "", on_line: Callable[[str], bool] | None = None
    ) -> Finished:
        """Run a command in place of the image's entrypoint; a secret goes to its standard input.

        The container is removed whatever happens. Ending the docker client does not surely end the container.
        """
        program, *arguments = command
        docker = ["docker", "run", "--rm", "--init", "--interactive", "--name", self.name, "--entrypoint", program]
        for source, target in self.mounts:
            docker += ["--mount", f"type=bind,source={source},target={target}"]
        docker += self.options
        for name, value in self.variables.items():
            docker += ["--env", f"{name}={value}"]
        self._remove()  # left by a run that was killed
        try:
            return run([*docker, self.image, *arguments], secret=secret, on_line=on_line, check=self.check)
        finally:
            self._remove()

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            run_quietly(["docker", "rm", "--force", self.name])
