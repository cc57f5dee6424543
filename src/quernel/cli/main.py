"""The `quernel` command: finds a subcommand, runs it, and turns what goes wrong into two lines and an exit code."""

import errno
import sys
import traceback
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from quernel._version import __version__
from quernel.cli.options import Group
from quernel.errors import QuernelError, SettingsError

COMMANDS: Mapping[str, Mapping[str, str]] = {
    "Use a model": {
        "embed": "Turn texts into vectors.",
        "rerank": "Order documents by their relevance to a query.",
        "serve": "Answer embedding and rerank requests over HTTP.",
    },
    "Serve many": {
        "gateway": "Put many providers, accounts and prices behind one API.",
        "keys": "Make, list, change and revoke API keys of the gateway.",
        "accounts": "Make accounts of the gateway, and see and add their money.",
        "usage": "Report what was used and spent.",
        "providers": "See, add, price and switch providers of the gateway.",
    },
    "Look at models": {
        "models": "List the models that Quernel knows.",
        "verify": "Check a model on this machine against published results.",
        "bench": "Measure how fast a model is on this machine.",
        "evaluate": "Measure how good models are on your data, and compare them.",
    },
    "Make models": {
        "train": "Train a model on your data.",
        "mine": "Find negatives for training data.",
        "synthesize": "Have a language model write training data.",
        "merge": "Merge checkpoints, or an adapter into its model.",
        "quantize": "Write a model with its weights in 8 bits.",
    },
}
"""Heading to command to its line in `quernel --help`; the command itself is `quernel.cli.<name>.command`."""

OK, FAILURE, USAGE, INTERRUPTED = 0, 1, 2, 130

HELP = """Run the Qwen3 Embedding and Reranker models.

    quernel embed "hello" "world"

Data goes to stdout, everything else to stderr.
Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 130 interrupted.
"""


class Commands(Group):
    """The subcommands, each imported when it is called, so that help and errors are instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the help."""
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"quernel.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, without importing a command."""
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises is reported and becomes the exit code."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # The reader of stdout has gone (`| head`); click ends the process silently.
            if ctx.params["debug"]:
                traceback.print_exc()
            message, hint = describe(error)
            report(message, hint)
            ctx.exit(USAGE if isinstance(error, SettingsError) else FAILURE)

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and end the process with its exit code."""
        try:
            code = super().main(args, prog_name, **{**extra, "standalone_mode": False})
        except click.ClickException as error:
            ctx = error.ctx if isinstance(error, click.UsageError) else None
            report(error.format_message(), f"See '{ctx.command_path} --help'." if ctx else None)
            code = error.exit_code
        except click.Abort:
            report("interrupted", None)
            code = INTERRUPTED
        sys.exit(code or OK)


def describe(error: Exception) -> tuple[str, str | None]:
    """What to tell the user of an exception: what is wrong, and what to do about it."""
    if isinstance(error, QuernelError):
        return error.message, error.hint
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror, None
    hint = "This is a fault of ours: run it again as 'quernel --debug ...' and report what it prints."
    return f"{type(error).__name__}: {error}", hint


def report(message: str, hint: str | None) -> None:
    """Print an error on stderr."""
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(f"hint: {hint}", err=True)


@click.group(
    "quernel",
    cls=Commands,
    help=HELP,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="quernel")
@click.option("--debug", is_flag=True, envvar="QUERNEL_DEBUG", help="Print the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Print the help where no command is given; `Commands.invoke` reads `debug`."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the `quernel` script."""
    cli()


if __name__ == "__main__":
    main()
