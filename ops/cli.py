"""`python -m ops`: the operator's verbs.

Exit codes, of every verb: 0 done; 1 refused, failed, or answered with no (the cause is on the
terminal, and what could be lost was not touched); 2 wrong command line; 130 Ctrl-C. Verbs that roll
(deploy, rollback, config and secret) besides: 3 it failed, and production is back at what was good;
4 it failed, and is not, or nobody can tell. `status` ends with 1 when production is unhealthy, or
when that cannot be told.
"""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from json import dumps
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, Literal

import typer
from rich.console import Console
from rich.text import Text

from ops import change as changing
from ops import (
    completion,
    configuration,
    daily,
    images,
    prune_configuration,
    registry,
    releases_screen,
    secret_values,
)
from ops import history as history_verb
from ops.api import Api
from ops.engine import Engine, Kind
from ops.problems import Misused, Refused, refused
from ops.rollout import Outcome
from ops.watching import watch

EXIT_CODES: Final = "Exit codes: 0 done; 1 refused, failed or answered with no; 2 wrong usage."
RELEASE_EXIT_CODES: Final = (
    "Exit codes: 0 done, or nothing to do; 1 refused, answered with no, or failed before anything "
    "that runs was changed; 2 wrong usage; 3 failed, and rolled back: production runs what was "
    "good; 4 failed and not rolled back, or nobody can tell: read what it says; 130 Ctrl-C."
)
_PLAIN_WIDTH: Final = 160  # where nobody tells a width (pipes, CI)

app = typer.Typer(
    name="python -m ops",
    help="honeyDue's operations, the same on production and in the rehearsal.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its frames would show local variables, and secrets in them
    rich_markup_mode=None,
    add_completion=False,  # typer's own is for a program of one word: see ops.completion
)
images_app = typer.Typer(help="What the registry holds of our images.", no_args_is_help=True)
app.add_typer(images_app, name="images")
registry_app = typer.Typer(help="The login of the registry.", no_args_is_help=True)
app.add_typer(registry_app, name="registry")
config_app = typer.Typer(help="The application's environment.", no_args_is_help=True)
app.add_typer(config_app, name="config")
secret_app = typer.Typer(help="Its secrets, and the registry's token.", no_args_is_help=True)
app.add_typer(secret_app, name="secret")

Stack = Annotated[
    str | None,
    typer.Option("--stack", "-s", help="The stack; default: prod, without pulumi rehearsal."),
]
Engines = Annotated[
    Kind | None, typer.Option("--engine", help="What runs the stack; found by itself.")
]
Keep = Annotated[
    int, typer.Option("--keep", min=1, help="Releases that stay in any case, of each image.")
]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show it, change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


class Rolled(StrEnum):
    """A service that rolls."""

    api = "api"
    worker = "worker"
    admin = "admin"


class Logged(StrEnum):
    """A service that writes a log."""

    api = "api"
    worker = "worker"
    admin = "admin"
    redis = "redis"


def main(arguments: Sequence[str]) -> int:
    """Runs one verb; its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # An arrow that the terminal's encoding does not have is shown as ?, and ends no deploy.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        with _ended_in_order():
            completion.prepare()
            app(args=arguments, prog_name="python -m ops", complete_var=completion.VARIABLE)
    except Refused as refusal:
        complain(refusal)
        code = 2 if isinstance(refusal, Misused) else 1
        if "--json" in arguments:  # whoever reads standard output is a program
            problems = [dataclasses.asdict(each) for each in refusal.problems]
            print(dumps({"exitCode": code, "ended": "refused", "problems": problems}, indent=2))
        return code
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """What would end this process at once (`kill`, a terminal that is closed, a connection that
    breaks) is an exception, so that settings go back and the lock is given back."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no handler can be set
        return

    def end(number: int, _frame: FrameType | None) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # a second one must not stop what goes back
        raise SystemExit(128 + number)

    found = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    before = {
        each: handler for each, handler in found.items() if handler != signal.SIG_IGN
    }  # nohup
    for each in before:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def complain(refusal: Refused) -> None:
    terminal = Console(stderr=True, highlight=False, soft_wrap=True)
    for problem in refusal.problems:
        terminal.print(Text("error: ", style="red") + Text(str(problem)))


def console() -> Console:
    if sys.stdout.isatty():
        return Console(highlight=False)
    return Console(highlight=False, width=_PLAIN_WIDTH, file=_Unpadded())


class _Unpadded(io.StringIO):
    """Standard output without the blanks that rich fills its columns with, at the end of a line."""

    def write(self, text: str) -> int:
        return sys.stdout.write(re.sub(r" +$", "", text, flags=re.MULTILINE))

    def flush(self) -> None:
        sys.stdout.flush()


def confirmed(yes: bool) -> Callable[[str], bool]:
    """How a changing verb asks. Refused where nobody can be asked."""

    def ask(question: str) -> bool:
        if yes:
            return True
        _need_terminal()
        print()
        return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")

    return ask


def asking(*, yes: bool, dry_run: bool) -> Callable[[str], bool]:
    """The same for verbs that ask late: refused before they begin."""
    if not (yes or dry_run):
        _need_terminal()
    return confirmed(yes)


def _need_terminal() -> None:
    if not sys.stdin.isatty():
        raise refused("without a terminal nobody can be asked", "pass --yes to go on")


# --- deploying ----------------------------------------------------------------------------------

OneService = Annotated[
    Rolled | None, typer.Option("--service", help="This one alone; the others stay what they are.")
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Also when a run that is gone has left its lock."),
]


@app.command(epilog=RELEASE_EXIT_CODES)
def deploy(
    *,
    sha: Annotated[
        str | None,
        typer.Option("--sha", help="A commit whose images are in the registry; default: build."),
    ] = None,
    service: OneService = None,
    point_of_no_return: Annotated[
        str,
        typer.Option(
            "--point-of-no-return",
            metavar="REASON",
            help="A rollback to before this release is refused with REASON, unless told otherwise.",
        ),
    ] = "",
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Release the application: preflight, preview, roll, watch it, ask the final URLs.

    api goes first: worker and admin roll only when it is healthy. When pods do not become ready
    within Kubernetes' own ten minutes, or a URL does not answer, production goes back to the last
    good release by itself, and so do the settings. A first boot that waits for the migration lock
    (up to 240 s) is no failure. Whatever stops this verb, run it again: it goes on.
    """
    from ops import deploy as deploying  # noqa: PLC0415 - it loads the program: 0.6 s

    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    outcome = deploying.deploy(
        Engine.find(stack, engine),
        how,
        sha=sha,
        service=service.value if service else None,
        point_of_no_return=point_of_no_return,
    )
    _changed(outcome, json=json)


@app.command(epilog=RELEASE_EXIT_CODES)
def rollback(
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="RELEASE|SHA",
            help="A release's number, or a SHA; default: the last good one before what runs.",
        ),
    ] = None,
    service: OneService = None,
    past_point_of_no_return: Annotated[
        bool,
        typer.Option(
            "--past-point-of-no-return", help="Although a migration cannot be undone: you know."
        ),
    ] = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Bring an earlier release back, images and configuration, without a build.

    Secrets stay what they are today. Refused, with what there is instead, when the release's images
    are gone from the registry, when it failed, or when a point of no return lies between.
    """
    from ops import rollback as rolling_back  # noqa: PLC0415 - as for deploy

    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    outcome = rolling_back.rollback(
        Engine.find(stack, engine),
        how,
        to=to,
        service=service.value if service else None,
        past=past_point_of_no_return,
    )
    _changed(outcome, json=json)


def _how(*, dry_run: bool, yes: bool, take_over: bool = False, json: bool = False) -> changing.How:
    if json and not (yes or dry_run):
        raise typer.BadParameter("--json is for programs, which cannot be asked: add --yes")
    return changing.How(
        # The document alone stands on standard output.
        console=Console(stderr=True, highlight=False, width=_PLAIN_WIDTH) if json else console(),
        confirm=asking(yes=yes, dry_run=dry_run),
        yes=yes,
        dry_run=dry_run,
        take_over=take_over,
    )


def _changed(outcome: Outcome, *, json: bool) -> None:
    if json:
        print(dumps(changing.document(outcome), indent=2))
    ended(outcome.code)


# --- images -------------------------------------------------------------------------------------


@images_app.command("list", epilog=EXIT_CODES)
def images_list(
    *, keep: Keep = 30, json: Json = False, stack: Stack = None, engine: Engines = None
) -> None:
    """What the registry holds, and why it stays."""
    found = Engine.find(stack, engine)
    with images.connect(found) as packages:
        asked = images.sources(found, keep)
        images.list_images(packages, asked, console(), keep=keep, as_json=json)


@images_app.command("prune", epilog=EXIT_CODES)
def images_prune(
    *,
    keep: Keep = 30,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Delete what nothing needs any more.

    Stays: the last KEEP releases of each image; whatever the cluster, the stack's settings, its
    state or its last KEEP releases refer to; the parts and signatures of all that; the layer cache;
    tags made by hand; what was pushed within the last hour. Refused while any of these cannot be
    listed whole. The namespace must be this stack's alone.
    """
    found = Engine.find(stack, engine)
    with images.connect(found) as packages:
        done = images.prune(
            packages,
            images.sources(found, keep),
            found,
            console(),
            keep=keep,
            dry_run=dry_run,
            as_json=json,
            confirm=confirmed(yes),
        )
    if not done:
        print("nothing was changed")
        raise typer.Exit(1)


# --- registry -----------------------------------------------------------------------------------


@registry_app.command("import", epilog=EXIT_CODES)
def registry_import(
    file: Annotated[Path, typer.Argument(help="REGISTRY, _NAMESPACE, _USERNAME and _TOKEN.")],
    *,
    dry_run: DryRun = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Put the login of deploy/registry.env into the stack, the token encrypted. Nothing rolls."""
    registry.import_(file, Engine.find(stack, engine), console(), dry_run=dry_run)


# --- config -------------------------------------------------------------------------------------


@config_app.command("show", epilog=EXIT_CODES)
def config_show(
    key: Annotated[str | None, typer.Argument(help="One of them; default: all.")] = None,
    *,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """The application's environment, who reads what, and which secrets are set (no values)."""
    configuration.show(Engine.find(stack, engine), console(), key, as_json=json)


@config_app.command("set", epilog=RELEASE_EXIT_CODES)
def config_set(
    assignments: Annotated[list[str], typer.Argument(metavar="KEY=VALUE…")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Edit the stack's env file, preview, and roll the services that read what changes.

    Nothing is written unless the program would take the whole; answered with no, or after a
    preview that fails, the file is as it was.
    """
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(configuration.set_(Engine.find(stack, engine), how, assignments), json=json)


@config_app.command("unset", epilog=RELEASE_EXIT_CODES)
def config_unset(
    keys: Annotated[list[str], typer.Argument(metavar="KEY…")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Take keys out of the stack's env file, as `config set` puts them in."""
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(configuration.unset(Engine.find(stack, engine), how, keys), json=json)


@config_app.command("diff", epilog=EXIT_CODES)
def config_diff(
    file: Annotated[
        Path | None, typer.Argument(help="An env file; default: the stack's own.")
    ] = None,
    *,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """What an env file says otherwise than what runs (the cluster; or the state, when no API
    server answers)."""
    configuration.diff(Engine.find(stack, engine), console(), file, as_json=json)


@config_app.command("import", epilog=RELEASE_EXIT_CODES)
def config_import(
    file: Annotated[Path, typer.Argument(help="A whole env file.")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Make FILE the stack's env file, as `config set` does: all of it or nothing."""
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(configuration.import_(Engine.find(stack, engine), how, file), json=json)


@config_app.command("prune", epilog=EXIT_CODES)
def config_prune(
    *,
    keep: Annotated[
        int, typer.Option("--keep", min=1, help="Releases whose settings stay in any case.")
    ] = prune_configuration.KEEP,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Delete the old ConfigMaps and Secrets that nothing names any more.

    Stays: what a pod, a Deployment, an old ReplicaSet (kubectl rollout undo), the state or one of
    the last KEEP releases names, and what is younger than an hour. Refused while any of these
    cannot be listed whole. A deploy that ends well does it by itself.
    """
    found = Engine.find(stack, engine)
    with Api.of(found) as api:
        done = prune_configuration.verb(
            found,
            api,
            console(),
            releases_kept=keep,
            dry_run=dry_run,
            as_json=json,
            confirm=confirmed(yes),
        )
    if not done:
        print("nothing was changed")
        raise typer.Exit(1)


def ended(code: int) -> None:
    if code:
        raise typer.Exit(code)


# --- secret -------------------------------------------------------------------------------------


SecretName = Annotated[
    str, typer.Argument(metavar="KEY", help=f"{', '.join(secret_values.SECRETS)}.")
]
FromFile = Annotated[
    Path | None,
    typer.Option("--from-file", help="A file that holds the value; default: prompt, or stdin."),
]


@secret_app.command("set", epilog=RELEASE_EXIT_CODES)
def secret_set(
    key: SecretName,
    *,
    from_file: FromFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Encrypt one value into the stack's file, preview, and roll the services that read it.

    The value comes from a prompt that shows nothing, from standard input, or from a file. While
    other settings of a new stack are missing it is set, and nothing rolls yet.
    """
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(secret_values.set_(Engine.find(stack, engine), how, key, from_file), json=json)


@secret_app.command("rotate", epilog=RELEASE_EXIT_CODES)
def secret_rotate(
    key: SecretName,
    *,
    from_file: FromFile = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """A new value: a strong one for SECRET_KEY; for what others issue it says where, and asks.

    REGISTRY_TOKEN makes the cluster's pull secret anew, and rolls nothing.
    """
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(secret_values.rotate(Engine.find(stack, engine), how, key, from_file), json=json)


@secret_app.command("import", epilog=RELEASE_EXIT_CODES)
def secret_import(
    file: Annotated[Path, typer.Argument(help="KEY=value a line.")],
    *,
    dry_run: DryRun = False,
    yes: Yes = False,
    take_over: TakeOver = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Encrypt the values of a file into the stack's: all of them or none, and preview and roll."""
    how = _how(dry_run=dry_run, yes=yes, take_over=take_over, json=json)
    _changed(secret_values.import_(Engine.find(stack, engine), how, file), json=json)


# --- releases, and the history ------------------------------------------------------------------


@app.command(epilog=EXIT_CODES)
def releases(
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, help="The newest so many.")] = 30,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Every release: what ran, since when, by whom, how it ended, and whether it can come back.

    A release is a run of `up`, by a verb or by hand, that changed what api, worker or admin run, or
    failed while it tried to. Its number is the run's in `history`.
    """
    releases_screen.show(Engine.find(stack, engine), console(), limit=limit, as_json=json)


@app.command(epilog=EXIT_CODES)
def history(
    *,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="The newest so many; default: 30, of an export all."),
    ] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="For a spreadsheet.")] = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Who did what to the stack and when: every run of the engine.

    For an audit: `history --json > history.json`, or `--csv`. No setting's value is in it.
    """
    if json and csv:
        raise typer.BadParameter("--json or --csv, not both")
    form: Literal["table", "json", "csv"] = "json" if json else "csv" if csv else "table"
    shown = limit if limit or form != "table" else 30
    history_verb.show(Engine.find(stack, engine), console(), limit=shown, form=form)


# --- reading, and the daily commands ------------------------------------------------------------

HEALTH_CODES: Final = "Exit codes: 0 healthy; 1 unhealthy, or not to be told; 2 wrong usage."


@app.command(epilog=HEALTH_CODES)
def status(
    *,
    watch_it: Annotated[
        bool, typer.Option("--watch", "-w", help="Again every two seconds, until Ctrl-C.")
    ] = False,
    json: Json = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """Is production well? If not: what is wrong, the likely cause, and what to do.

    Unhealthy is: a node or API server that is not ready, a missing etcd member, a service that
    does not run its release, a pod that fails, a DNS record or an object in the cluster that is not
    as the last `up` left it, a certificate that ends within 30 days, a last `up` that failed, and
    whatever cannot be asked. A rollout under way is not, nor a pod that boots: a first boot of the
    api may take 240 seconds (the migration lock).
    """
    if not watch(Engine.find(stack, engine), console(), again=watch_it, as_json=json):
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def logs(
    service: Logged,
    *,
    previous: Annotated[
        bool, typer.Option("--previous", "-p", help="Of the container before the last restart.")
    ] = False,
    tail: Annotated[int, typer.Option("--tail", min=0, help="Lines of each pod.")] = 100,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="And what comes, until Ctrl-C.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="An object a line: at, pod, line.")] = False,
    stack: Stack = None,
    engine: Engines = None,
) -> None:
    """What all pods of a service wrote, in order of time. Values of Secrets are masked."""
    if previous and follow:
        raise typer.BadParameter("--previous has ended: there is nothing to --follow")
    with Api.of(Engine.find(stack, engine)) as api:
        daily.logs(
            api,
            service.value,
            lambda line: print(line, flush=follow),
            previous=previous,
            tail=tail,
            follow=follow,
            as_json=json,
        )


@app.command(epilog=EXIT_CODES)
def pause(
    service: Rolled, *, dry_run: DryRun = False, stack: Stack = None, engine: Engines = None
) -> None:
    """Hold a rollout: no new pods, and what runs goes on running."""
    with Api.of(Engine.find(stack, engine)) as api:
        daily.pause(api, service.value, print, dry_run=dry_run)


@app.command(epilog=EXIT_CODES)
def resume(
    service: Rolled, *, dry_run: DryRun = False, stack: Stack = None, engine: Engines = None
) -> None:
    """Let a paused rollout go on."""
    with Api.of(Engine.find(stack, engine)) as api:
        daily.resume(api, service.value, print, dry_run=dry_run)


@app.command(epilog=EXIT_CODES)
def restart(
    service: Rolled, *, dry_run: DryRun = False, stack: Stack = None, engine: Engines = None
) -> None:
    """New pods with the same image and settings, one after the other.

    The next `up` neither undoes nor repeats it. Refused while a run of the stack is under way.
    """
    found = Engine.find(stack, engine)
    with Api.of(found) as api, found.alone():
        daily.restart(api, service.value, print, dry_run=dry_run)


# --- the shell ----------------------------------------------------------------------------------


@app.command("completion", epilog=EXIT_CODES)
def completion_(shell: completion.Shell) -> None:
    """Print what makes `ops` a command of the shell, with Tab: source <(python -m ops completion
    bash)."""
    print(completion.script(shell))
