"""The command that judges a world model against the truth."""

from pathlib import Path
from typing import Annotated

import typer

from cluster.output import Json


def register(app: typer.Typer) -> None:
    """Add this command."""
    app.command(name="eval")(evaluate)


def evaluate(
    source: Annotated[
        str, typer.Argument(help="Run folder, whose newest checkpoint is judged, checkpoint or shipped weights.")
    ],
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="one-step, questions, agreement, rollout, frontier, revisit, cross-agent, permanence, counterfactual,"
            " events, invariants, or all.",
        ),
    ] = "all",
    world: Annotated[
        str | None, typer.Option("--world", help="Environment to judge in, as for --env; without it, the run's own.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Held-out worlds: how many (8), or which (0,3,5-9).")
    ] = None,
    ticks: Annotated[
        str | None, typer.Option("--ticks", help="Horizons and delays, in ticks, as 1,8,64,512,4096.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="Of a checkpoint that has none beside it.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="As little as still says something.")] = False,
    as_json: Json = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for JSON, plots, and films of the worst episodes.")
    ] = None,
) -> None:
    """Judge a world model against the truth, beside what copying, forgetting and knowing everything would score."""
    from cluster.evaluation import EvaluationRequest, judge
    from learner.start import start_path

    request = EvaluationRequest(
        source=start_path(source),
        protocol=protocol,
        world=world,
        seeds=seeds,
        ticks=ticks,
        tokenizer=tokenizer,
        quick=quick,
        out=out,
    )
    if judge(request, as_json=as_json):
        raise typer.Exit(130)
