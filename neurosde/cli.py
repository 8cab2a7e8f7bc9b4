"""The command line: `neurosde demo | datasets | bridge | forecast | info`."""

import functools

import typer

import neurosde
from neurosde.typing import Any, Callable

app = typer.Typer(
    name="neurosde",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural stochastic differential equations for irregular series and single-cell snapshots.",
)


def main() -> None:
    """Entry point of the command `neurosde`."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"neurosde {neurosde.__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    debug: bool = typer.Option(False, "--debug", help="Show where an error comes from."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print it."),
) -> None:
    """Options that stand before the command."""
    context.obj = {"debug": debug}


def sentences(command: Callable[..., Any]) -> Callable[..., Any]:
    """Make an exception a sentence and exit code 2 (130 after Ctrl-C); --debug lets it through."""

    @functools.wraps(command)
    def quiet(context: typer.Context, *args: Any, **kwargs: Any) -> Any:
        if context.obj["debug"]:
            return command(context, *args, **kwargs)
        try:
            return command(context, *args, **kwargs)
        except (typer.Exit, typer.BadParameter):
            raise
        except KeyboardInterrupt as error:
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from error
        except Exception as error:
            typer.echo(f"error: {_sentence(error)}", err=True)
            raise typer.Exit(2) from error

    return quiet


def _sentence(error: Exception) -> str:
    from neurosde.errors import NeuroSDEError

    if isinstance(error, NeuroSDEError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        extra = {"anndata": "sc", "scanpy": "sc", "matplotlib": "plot"}.get(error.name or "", "all")
        return f"this command needs {error.name}: pip install 'neurosde[{extra}]'"
    if isinstance(error, OSError):
        return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    return f"{type(error).__name__}: {error} (neurosde --debug ... shows where)"
