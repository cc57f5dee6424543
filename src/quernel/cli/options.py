"""Options that know their section of the help page, and the command class that prints them by section."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

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


def option(*names: str, section: str = OTHER, **attributes: Any) -> Callable[[F], F]:
    """`click.option`, with a section."""
    decorator: Callable[[F], F] = click.option(*names, cls=Option, section=section, **attributes)
    return decorator


def quiet_option(command: F) -> F:
    """Give a command `--quiet`."""
    return option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")(command)
