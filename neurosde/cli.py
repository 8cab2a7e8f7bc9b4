"""The command line: `neurosde demo | datasets | bridge | forecast | info`."""

import functools
from pathlib import Path
from typing import Annotated

import typer

import neurosde
from neurosde.typing import Any, Callable, Literal

app = typer.Typer(
    name="neurosde",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural stochastic differential equations for irregular series and single-cell snapshots.",
)


Seed = Annotated[int, typer.Option(help="Fixes every random number.")]
Start = Literal["first", "zero"]


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
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
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


@app.command()
@sentences
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder for scores, pictures and models.")] = Path("demo"),
    seed: Seed = 0,
) -> None:
    """Fit a bridge and a forecaster to data that ships with the package, beside trivial baselines."""
    from neurosde.demo import run

    run(out, seed=seed)


@app.command()
@sentences
def datasets(
    context: typer.Context, name: Annotated[str, typer.Argument(help="Print the card of this one.")] = ""
) -> None:
    """List the datasets of the catalogue, or print the card of one."""
    from neurosde.datasets import card, names

    if name:
        facts = card(name)
        for field in (
            "title",
            "kind",
            "source",
            "shape",
            "time_unit",
            "split",
            "options",
            "licence",
            "citation",
        ):
            typer.echo(f"{field.replace('_', ' '):10s} {facts[field]}")
        typer.echo(f"\n{facts['description'].strip()}\n")
        typer.echo("\n".join(f"- {trap}" for trap in facts["traps"]))
        typer.echo(facts.get("how_to_get", "").rstrip())
        return
    width = max(map(len, names()))
    for each in names():
        facts = card(each)
        typer.echo(f"{each:{width}s}  {facts['kind']:9s}  {facts['source']:9s}  {facts['title']}")


@app.command()
@sentences
def bridge(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Annotated matrix (.h5ad).")],
    time_key: Annotated[str, typer.Option(help="Column of obs with the time of each cell.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, pictures and model.")] = Path("bridge"),
    use_rep: Annotated[str, typer.Option(help="Key of obsm to work in, or X.")] = "X_pca",
    n_pcs: Annotated[int, typer.Option(help="Leading columns of it; 0 takes all.")] = 5,
    leave_out: Annotated[str, typer.Option(help="Times to judge at, with commas; all inner ones.")] = "",
    max_iter: Annotated[int, typer.Option(help="Updates of the fit.")] = 2000,
    standardize: Annotated[bool, typer.Option(help="Bring all columns to one scale first.")] = True,
    seed: Seed = 0,
) -> None:
    """Fit a bridge between snapshots and judge it on left-out ones, beside trivial predictions."""
    import anndata

    from neurosde.reports import bridge_report

    adata = anndata.read_h5ad(file)
    typer.echo(f"read {adata.n_obs} cells")
    report = bridge_report(
        adata, out, time_key=time_key, use_rep=use_rep, n_pcs=n_pcs or None,
        leave_out=_numbers("--leave-out", leave_out) or None, seed=seed, max_iter=max_iter,
        standardize=standardize, verbose=1,
    )  # fmt: skip
    typer.echo(report.text())


@app.command()
@sentences
def forecast(
    context: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="Table (.csv, .tsv, .parquet), a row an observation or a visit.")
    ],
    history: Annotated[float, typer.Option(help="Length of the history, in the unit of time.")],
    horizon: Annotated[float, typer.Option(help="Length of the forecast.")],
    out: Annotated[Path, typer.Option(help="Folder for scores, forecasts, picture, model.")] = Path(
        "forecast"
    ),
    columns: Annotated[str, typer.Option(help="Names of these four columns.")] = "id,time,variable,value",
    static: Annotated[str, typer.Option(help="Columns that are constant within an id, with commas.")] = "",
    start: Annotated[Start, typer.Option(help="Where the clock of a series starts.")] = "first",
    max_iter: Annotated[int, typer.Option(help="Passes over the data.")] = 20,
    seed: Seed = 0,
) -> None:
    """Train a forecaster on most series of a table and judge it on the others, beside trivial baselines."""
    from neurosde.io import read_series
    from neurosde.reports import forecast_report

    named = [name.strip() for name in columns.split(",")]
    if len(named) != 4:
        raise typer.BadParameter(f"--columns has {len(named)} names, expected four: id,time,variable,value")
    fixed = [name.strip() for name in static.split(",") if name.strip()]
    series = read_series(file, *named, static=fixed or None)
    typer.echo(f"read {series}")
    report = forecast_report(
        series, out, history=history, horizon=horizon, start=start, seed=seed, max_iter=max_iter, verbose=1
    )
    typer.echo(report.text())


@app.command()
@sentences
def info(context: typer.Context, model: Annotated[Path, typer.Argument(help="A saved model.")]) -> None:
    """Say what is in a saved model, without loading it."""
    from neurosde.estimators import read_model_info

    facts = read_model_info(model)
    size = f"{facts['n_weights']:,} weights, {facts['bytes']:,} bytes"
    typer.echo(f"{facts['class']}, written by neurosde {facts['version']}, {size}")
    for title, part in (("parameters", "params"), ("fitted", "attributes")):
        typer.echo(f"{title}:")
        for name, value in sorted(facts[part].items()):
            shape = facts["shapes"].get(f"{part}/{name}")
            typer.echo(f"  {name} = {f'array {shape}' if shape is not None else _short(value)}")


def _numbers(option: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise typer.BadParameter(
            f"{option} is {text!r}, expected numbers with commas between them"
        ) from error


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


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
