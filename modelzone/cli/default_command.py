"""A group whose command may be left out: ``compile mixtral`` beside ``compile status``."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

__all__ = ["DefaultCommandGroup"]


class DefaultCommandGroup(TyperGroup):
    """Whatever begins with none of its commands is for ``start``."""

    default = "start"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in front where it was left out."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Offer the commands, and what could follow the one that was left out."""
        found = super().shell_complete(ctx, incomplete)
        command = self.commands[self.default]
        inner = command.make_context(self.default, [], parent=ctx, resilient_parsing=True)
        with inner:
            if incomplete.startswith("-"):
                known = {item.value for item in found}
                return [
                    *found,
                    *(item for item in command.shell_complete(inner, incomplete) if item.value not in known),
                ]
            argument: Any = next(param for param in command.params if param.param_type_name == "argument")
            return [*found, *argument.shell_complete(inner, incomplete)]
