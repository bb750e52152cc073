"""The command that trains a world model from recorded data, without Ray and without a server."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.output import Json


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(name="train")(train)


def train(
    out: Annotated[Path, typer.Option("--out", help="Run folder to be made; one that exists is gone on with.")],
    preset: Annotated[
        str | None, typer.Option("--preset", help="As for `worlds run`; homestead-tiny if it is not said.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", help="How long to train (10), recording not counted.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="How many steps to train, in place of minutes.")] = None,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of recorded worlds, made if need be; without it, in --out.")
    ] = None,
    env: Annotated[str | None, typer.Option("--env", help="As for `worlds run`.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of worlds, weights and draws.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--start-from",
            help="Run folder, checkpoint or shipped weights to begin with; without it, nothing. Goes by half the rate.",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="As torch names it: cpu, cuda, cuda:1.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Train a world model from recorded worlds: no Ray, no server. Ctrl-C saves; the same command goes on."""
    from cluster.training import TrainingRequest, train_recorded

    request = TrainingRequest(
        out=out,
        preset=preset,
        minutes=minutes,
        steps=steps,
        data=data,
        env=env,
        seed=seed,
        start_from=start_from,
        device=device,
    )
    if train_recorded(request, as_json=as_json):
        raise typer.Exit(130)
