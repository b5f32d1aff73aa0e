"""Runs a verb so that whatever happens ends in one message and a documented exit status, never in a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from modelzone.cli.exits import ExitCode
from modelzone.cli.output import note, write_json
from modelzone.errors import ModelzoneError, SettingsError

__all__ = ["PROGRAM", "Frame"]

PROGRAM = "modelzone"
# What writing to stdout can end in.
_OF_STREAMS = (errno.EPIPE, errno.ENOSPC, errno.EIO)
_COMPLETION_VARIABLE = "_MODELZONE_COMPLETE"
# Names and values from files end up in messages: no escape sequence of theirs reaches the terminal.
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class Frame(TyperGroup):
    """The root of all verbs."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: FBT001, FBT002 - click's signature
        windows_expand_args: bool = True,  # noqa: FBT001, FBT002
        **extra: Any,
    ) -> Any:
        """Run one command line."""
        arguments = list(sys.argv[1:] if args is None else args)
        if os.environ.get(_COMPLETION_VARIABLE):
            code = _complete(lambda: TyperGroup.main(self, arguments, PROGRAM, _COMPLETION_VARIABLE))
        else:
            code = _guard(lambda: self._run(arguments, extra), as_json=_wants_json(arguments))
        if standalone_mode:
            sys.exit(code)
        return code

    def _run(self, arguments: list[str], extra: dict[str, Any]) -> None:
        with self.make_context(PROGRAM, arguments, **extra) as context:
            self.invoke(context)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Told from the command line itself, because errors in it are to be JSON as well."""
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in options


def _complete(action: Callable[[], object]) -> int:
    """Complete a command line: a shell that waits for words wants no messages."""
    try:
        action()
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else ExitCode.DONE
    except Exception:
        return ExitCode.REFUSED
    return ExitCode.DONE


def _guard(action: Callable[[], object], *, as_json: bool) -> int:  # noqa: PLR0911 - one return for each outcome
    _prepare_streams()
    try:
        try:
            action()
        except typer.Exit as ended:
            sys.stdout.flush()
            return ended.exit_code
        except OSError as error:
            if error.errno in _OF_STREAMS and not error.filename:
                raise
            where = f": {error.filename}" if error.filename else ""
            _report(f"{error.strerror or error}{where}", kind="refused", as_json=as_json)
            return ExitCode.REFUSED
        except SettingsError as error:
            parts = {"source": error.source, "key": error.key, "problem": error.problem, "fix": error.fix}
            _report(str(error), kind="refused", as_json=as_json, **parts)
            return ExitCode.REFUSED
        except ModelzoneError as error:
            _report(str(error), kind="refused", as_json=as_json)
            return ExitCode.REFUSED
        except typer.TyperException as error:
            _report_usage(error, as_json=as_json)
            return ExitCode.USAGE
        except (typer.Abort, EOFError):
            _report("aborted", kind="refused", as_json=as_json)
            return ExitCode.REFUSED
        except Exception as error:
            _report(_fault(error), kind="fault", as_json=as_json)
            return ExitCode.FAULT
        sys.stdout.flush()
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except OSError as error:
        _abandon(sys.stdout)
        if error.errno == errno.EPIPE:
            return ExitCode.CLOSED
        with contextlib.suppress(OSError):
            note(f"error: the output could not be written: {error.strerror or error}")
        return ExitCode.REFUSED
    return ExitCode.DONE


def _prepare_streams() -> None:
    """Have both streams, and have them take every character."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: `modelzone … >&-`
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115
        reconfigure = getattr(getattr(sys, name), "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def _abandon(stream: Any) -> None:
    """Nothing can be written any more; Python would try again at exit and complain."""
    with contextlib.suppress(OSError, ValueError):
        number = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)


def _report(message: str, *, kind: str, as_json: bool, **parts: str) -> None:
    """Say it to people on stderr, and to machines that asked for JSON on stdout."""
    clean = _CONTROL.sub(lambda match: repr(match[0])[1:-1], message)
    note(f"error: {clean}")
    if as_json:
        write_json({"error": {"kind": kind, "message": message, **parts}})
        sys.stdout.flush()


def _report_usage(error: typer.TyperException, *, as_json: bool) -> None:
    """Click's message on one line, with the command that explains more; its help where nothing was asked for."""
    context: typer.Context | None = getattr(error, "ctx", None)
    path = context.command_path if context else PROGRAM
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":
        note(context.get_help())
        return
    message = " ".join(error.format_message().split()).rstrip(".").removeprefix("Invalid value: ")
    _report(f"{message} (see: {path} --help)", kind="usage", as_json=as_json)


def _fault(error: Exception) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix=f"{PROGRAM}-", suffix=".log", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as log:
            log.write(f"{' '.join(sys.argv)}\nPython {sys.version}\n\n")
            log.writelines(traceback.format_exception(error))
    except OSError:
        return f"{PROGRAM} failed: {said}"
    return f"{PROGRAM} failed: {said} (details: {log.name})"
