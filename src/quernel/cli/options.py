"""Options that know their section of the help page, and the command class that prints them by section."""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import click
from click.core import ParameterSource

F = TypeVar("F", bound=Callable[..., Any])

OTHER = "Options"


class Option(click.Option):
    """A click option with the heading that it stands under in `--help`."""

    def __init__(self, param_decls: Sequence[str] | None = None, *, section: str = OTHER, **attributes: Any) -> None:
        super().__init__(param_decls, **attributes)
        self.section = section

    def get_error_hint(self, ctx: click.Context | None) -> str:
        """The option in an error: with its environment variable, since the wrong value may stand there."""
        hint = super().get_error_hint(ctx)
        return f"{hint} (environment: {self.envvar})" if self.envvar else hint


class Command(click.Command):
    """A click command whose help lists its options under headings, in the order of their first option."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section, those without one at the end."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and isinstance(parameter, click.Option):
                sections.setdefault(getattr(parameter, "section", OTHER), []).append(record)
        for section in sorted(sections, key=lambda name: name == OTHER):
            with formatter.section(section):
                formatter.write_dl(sections[section])


class Group(Command, click.Group):
    """A command of several: alone it prints its help, and an unknown one is answered with the nearest known."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the arguments start with."""
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            near = get_close_matches(args[0], self.list_commands(ctx), n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"No such command {args[0]!r}.{guess}", ctx)
        return super().resolve_command(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of their declaration."""
        return list(self.commands)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, then the commands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


def group(name: str, *, short_help: str, help: str) -> Group:
    """A command that does nothing but hold others.

    Args:
        name: What it is called.
        short_help: Its line in the help of what holds it.
        help: Its own help.
    """

    def show_help() -> None:
        ctx = click.get_current_context()
        if ctx.invoked_subcommand is None:
            click.echo(ctx.get_help())

    return Group(name, callback=show_help, invoke_without_command=True, short_help=short_help, help=help)


def refuse_options(ctx: click.Context) -> None:
    """Refuse options of a group before the name of its command, where they would have no meaning.

    Raises:
        UsageError: There is one.
    """
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            flag = name.removeprefix("as_").replace("_", "-")
            raise click.UsageError(f"--{flag} stands before {ctx.invoked_subcommand}; write it after.", ctx)


def option(*names: str, section: str = OTHER, **attributes: Any) -> Callable[[F], F]:
    """`click.option`, with a section."""
    decorator: Callable[[F], F] = click.option(*names, cls=Option, section=section, **attributes)
    return decorator


def quiet_option(command: F) -> F:
    """Give a command `--quiet`."""
    return option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")(command)
