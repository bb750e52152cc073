"""The command line: parse, then import what the command needs. `--help` must answer in under half a second."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cluster import (
    audit_commands,
    evaluation_commands,
    history_commands,
    lineage_commands,
    prompt_commands,
    training_commands,
)
from cluster.output import DEFAULT_RUN_DIR, Json, RedisUrl, RunDir, plain, print_json, print_table

app = typer.Typer(
    name="worlds",
    help="Many persistent, learned worlds: agents live in them, a learner improves them, Redis keeps them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Seed = Annotated[int | None, typer.Option("--seed", help="Of worlds, weights and draws.")]


@app.command()
def run(
    preset: Annotated[
        str | None,
        typer.Option("--preset", help="homestead-tiny (the default), -small, -base, crafter, or smoke."),
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="How long to run; the worlds go on next time.")] = 5.0,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    env: Annotated[
        str | None,
        typer.Option(
            "--env", help="homestead, crafter, any Gymnasium id, or module:factory of a PettingZoo ParallelEnv."
        ),
    ] = None,
    seed: Seed = None,
    redis_url: RedisUrl = None,
    address: Annotated[
        str | None, typer.Option("--address", help="Ray cluster to join; without it, a local one.")
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--start-from",
            help="Run folder or checkpoint whose weights to begin with, or nothing; else what the preset ships.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Host worlds, learn from them, and dream them; or go on with a run that was stopped or killed."""
    from cluster.launch import set_environment
    from cluster.run_folder import stored_address

    set_environment(address or stored_address(run_dir))
    from cluster.run import RunRequest, print_summary
    from cluster.run import run as run_worlds

    out = sys.stderr if as_json else sys.stdout
    request = RunRequest(
        run_dir=run_dir,
        minutes=minutes,
        preset=preset,
        env=env,
        seed=seed,
        redis_url=redis_url,
        address=address,
        start_from=start_from,
    )
    try:
        summary = run_worlds(request, out)
    except KeyboardInterrupt:
        typer.echo("worlds: stopped before the run had begun", err=True)
        raise typer.Exit(130) from None
    print_summary(summary, out)
    if as_json:
        print_json(summary.as_json())


@app.command(name="list")
def list_(
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    limit: Annotated[int | None, typer.Option("--limit", help="One page of this many, the newest made first.")] = None,
    after: Annotated[str | None, typer.Option("--after", help="Id of the last world of the page before.")] = None,
    as_json: Json = False,
) -> None:
    """List the worlds of a run folder, or of a server: all, newest activity first, or one page."""
    from cluster.listing import list_worlds, opened_store

    with opened_store(run_dir, redis_url) as store:
        worlds = list_worlds(store, limit=limit, after=after)
    if as_json:
        print_json(worlds)
        return
    print_table(worlds)


@app.command()
def show(
    world: Annotated[str, typer.Argument(help="Id of a world, as `worlds list` prints it.")],
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Show all that is known of one world, after verifying every byte of it."""
    from cluster.listing import opened_store, show_world

    with opened_store(run_dir, redis_url) as store:
        found = show_world(store, world)
    if as_json:
        print_json(found)
        return
    print_table([{"": name, " ": value} for name, value in found.items()])


@app.command()
def doctor(run_dir: RunDir = DEFAULT_RUN_DIR, redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Say what is installed, which server and devices will be used, and what is wrong."""
    from cluster.doctor import examine

    findings = examine(run_dir, redis_url)
    if as_json:
        print_json(findings)
    else:
        rows = [{"": name, " ": plain(value)} for name, value in findings.items() if name != "problems"]
        print_table(rows)
        for problem in findings["problems"]:
            typer.echo(f"wrong: {problem}")
        if not findings["problems"]:
            typer.echo("nothing is wrong")
    raise typer.Exit(1 if findings["problems"] else 0)


@app.command()
def move(
    world: Annotated[str, typer.Argument(help="Id of a world, as `worlds list` prints it.")],
    to: Annotated[str, typer.Option("--to", help="Name of the host: host-0, host-1, …; any: wherever there is room.")],
    within: Annotated[float, typer.Option("--within", help="Seconds to wait for it.")] = 30.0,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Move a living world to another host of the run that hosts it; no tick is lost or repeated."""
    from cluster.listing import opened_store
    from cluster.move import move_world
    from world.snapshot import WorldId

    with opened_store(run_dir, redis_url) as store:
        moved = move_world(store, WorldId(world), to, within_s=within)
    if as_json:
        print_json(moved)
        return
    print_table([{"": name, " ": plain(value)} for name, value in moved.items()])


@app.command(name="redis-acl")
def redis_acl(
    replica: Annotated[
        bool, typer.Option("--replica", help="For durability 'replica', which needs Redis 7.2 or Valkey.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print an ACL file for an external Redis or Valkey: a host, a gateway and a reader, each with its own rights.

    The file is for the server's `aclfile` setting. It holds digests; the passwords are told once, on stderr.
    """
    from world.store.acl import acl_file, new_passwords

    passwords = new_passwords()
    text = acl_file(passwords, "replica" if replica else "disk")
    if as_json:
        print_json({"acl": text, "passwords": passwords})
        return
    typer.echo(text, nl=False)
    for user, password in passwords.items():
        typer.echo(f"{user}: rediss://{user}:{password}@HOST:6379?ssl_ca_certs=FILE", err=True)


@app.command()
def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="env, replay, commit, fleet, takeover, storage, travel, list, dream, architectures, or memory."
        ),
    ],
    env: Annotated[str, typer.Option("--env", help="Environment of `bench env`.")] = "homestead",
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="About how long to measure; without it, as long as it needs.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Recorded worlds for `bench architectures`, each of which trains for --seconds."),
    ] = None,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Measure one part on this machine."""
    from cluster.benches import measure

    found = measure(name, env=env, seconds=seconds, redis_url=redis_url, data=data)
    if as_json:
        print_json(found)
        return
    print_table([{"": key, " ": plain(value)} for key, value in found.items()])


for _commands in (
    training_commands,
    evaluation_commands,
    prompt_commands,
    lineage_commands,
    history_commands,
    audit_commands,
):
    _commands.register(app)


def main() -> NoReturn:
    """Run the command line. What a person can mend is told in a sentence, with exit code 2 and no traceback."""
    from world.errors import LivingWorldsError

    # So that `--env module:factory` finds a module of the present folder; last, so that it hides nothing of ours.
    sys.path.append(str(Path.cwd()))
    try:
        app()
    except LivingWorldsError as error:
        print(f"worlds: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


if __name__ == "__main__":
    main()
