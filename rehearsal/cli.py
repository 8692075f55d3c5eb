"""`python -m rehearsal`: the CLI's verbs over the rehearsal's engine, and the rehearsal's own.

Without a verb it is the guided rehearsal: preview, up, a second preview, and a page of what runs.
Exit codes: 0 done; 1 refused or failed (the cause is on the terminal); 2 wrong command line.
"""

from __future__ import annotations

import argparse
import getpass
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rehearsal import images, serve
from rehearsal.cluster.binaries import Progress
from rehearsal.display import Terminal, Tree, Waiting, mask, preview_digest
from rehearsal.engine.deployment import Deployment, EngineError, Project, Result
from rehearsal.engine.project import StackFile
from rehearsal.engine.secrets import open_crypter
from rehearsal.engine.settings_file import remove_value, set_value
from rehearsal.engine.state import Backend
from rehearsal.engine.values import Secret
from rehearsal.graph import draw
from rehearsal.home import REPOSITORY, Home
from rehearsal.kubelet.behaviour import KINDS, Behaviour, behave, behaviour_file
from rehearsal.lose import lose
from rehearsal.registry.gitea import ForgeError
from rehearsal.timeline import steps_of

STACK = "rehearsal"
KILLED = 128 + signal.SIGINT  # the shells' exit code
# Wide enough for the tree where nobody tells a width (pipes, CI).
PLAIN_WIDTH = 140


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        # What the terminal's encoding does not have is shown as ?, and breaks no run off.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    console = Console(
        file=sys.stdout,  # this one for good: what the program prints meanwhile goes elsewhere
        soft_wrap=False,
        highlight=False,
        width=None if sys.stdout.isatty() else PLAIN_WIDTH,
    )
    verb: Callable[[argparse.Namespace, Console], int] = options.verb
    try:
        return verb(options, console)
    except (EngineError, serve.ServeError, ForgeError) as refusal:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            Text("error: ", style="red") + Text(str(refusal))
        )
        return 1
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:  # `… | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m rehearsal",
        description="The whole production on this machine. Without a verb: preview, deploy, "
        "preview again, and show what runs.",
    )
    top.set_defaults(verb=guided, stack=STACK, parallel=16, target=[])
    top.add_argument(
        "--images",
        action="store_true",
        help="with a real registry and builder: images are built, signed, run and pulled back "
        "(this home keeps them until `reset`)",
    )
    verbs = top.add_subparsers(title="verbs", metavar="VERB")

    def add(name: str, verb: Callable[[argparse.Namespace, Console], int], help_: str) -> Any:
        sub = verbs.add_parser(name, help=help_, description=help_)
        sub.set_defaults(verb=verb)
        return sub

    def add_stack(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("-s", "--stack", default=STACK, help="the stack's name (%(default)s)")

    def add_run(sub: argparse.ArgumentParser, *, changes: bool) -> None:
        add_stack(sub)
        sub.add_argument("--diff", action="store_true", help="show old → new for each property")
        sub.add_argument("--parallel", type=positive, default=16, metavar="N")
        sub.add_argument("--target", action="append", default=[], metavar="URN")
        if changes:
            sub.add_argument("-y", "--yes", action="store_true", help="do not ask")
            sub.add_argument("-f", "--skip-preview", action="store_true")

    preview_ = add("preview", preview, "show what `up` would change")
    add_run(preview_, changes=False)
    preview_.add_argument("-j", "--json", action="store_true", help="the CLI's preview digest")
    preview_.add_argument("--expect-no-changes", action="store_true", help="exit 1 on any change")
    up_ = add("up", up, "make it so")
    add_run(up_, changes=True)
    up_.add_argument("-m", "--message", default="", help="a word for the history")
    add_run(add("refresh", refresh, "compare the state with the world"), changes=True)
    add_run(add("destroy", destroy, "delete everything that the stack has made"), changes=True)

    state_verbs(
        add("stack", lambda *_: top.error("stack needs a verb: see --help"), "look at the state"),
        add("config", config, "print the stack's configuration"),
        add("whoami", whoami, "print who works here, and where the state is"),
        add_stack,
    )
    cancel_ = add("cancel", cancel, "remove the lock of a run that is no more")
    add_stack(cancel_)
    cancel_.add_argument("-y", "--yes", action="store_true", help="as the CLI has it: never asks")
    serve_ = add(
        "serve", serve_verb, "serve the stand-ins until Ctrl-C; prints the environment for pulumi"
    )
    # A default of its own would undo `--images` before the verb.
    serve_.add_argument(
        "--images", action="store_true", default=argparse.SUPPRESS, help="also registry and builder"
    )
    add("environment", environment, "start the stand-ins if need be; print where they are (JSON)")
    add("edge", edge, "print where users come in, who vouches for it, and who has the names (JSON)")
    add("down", down, "end every process, keep the state")
    add("reset", reset, "end every process, forget the state and the stand-ins' contents")
    graph_ = add("graph", graph, "draw the stack, its dependencies and its critical path (SVG)")
    add_stack(graph_)
    graph_.add_argument("-o", "--output", metavar="FILE", help="instead of standard output")
    lose_ = add("lose", lose_verb, "lose something behind the program's back")
    lose_.add_argument("what", choices=["server", "servers", "state"])
    lose_.add_argument("name", nargs="?", help="the server's name")
    add_stack(lose_)
    help_ = "tell the pods that start from now on how to behave"
    behave_ = add("behave", behave_verb, help_)
    behave_.add_argument("whom", metavar="SERVICE-or-DIGEST")
    behave_.add_argument("how", nargs="+", metavar="BEHAVIOUR", help=told_behaviours())
    return top


def state_verbs(
    stack: argparse.ArgumentParser,
    configured: argparse.ArgumentParser,
    who: argparse.ArgumentParser,
    add_stack: Callable[[argparse.ArgumentParser], None],
) -> None:
    """The verbs that only look (and `stack import`), with the CLI's own flags."""
    stack_verbs = stack.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, verb, help_ in (
        ("export", stack_export, "print the checkpoint; secrets stay encrypted"),
        ("import", stack_import, "replace the checkpoint"),
        ("output", stack_output, "print the outputs, or one of them"),
        ("history", stack_history, "print the past updates"),
    ):
        sub = stack_verbs.add_parser(name, help=help_, description=help_)
        sub.set_defaults(verb=verb)
        add_stack(sub)
        if name in ("export", "import"):
            sub.add_argument("--file", metavar="FILE", help="instead of standard input or output")
        if name in ("output", "history"):
            sub.add_argument("-j", "--json", action="store_true")
        if name == "output":
            sub.add_argument("name", nargs="?")
            sub.add_argument("--show-secrets", action="store_true")
    add_stack(configured)
    for sub in (configured, who):
        sub.add_argument("-j", "--json", action="store_true")
    configured.add_argument("--show-secrets", action="store_true")
    settings = configured.add_subparsers(title="verbs", metavar="VERB")
    help_ = "set one value; without VALUE it is read from standard input"
    set_ = settings.add_parser("set", help=help_, description=help_)
    set_.set_defaults(verb=config_set)
    add_stack(set_)
    set_.add_argument("--path", action="store_true", help="KEY leads into an object: a.b[0].c")
    set_.add_argument("--secret", action="store_true", help="encrypt it")
    set_.add_argument("key", metavar="KEY")
    set_.add_argument("value", metavar="VALUE", nargs="?")
    remove = settings.add_parser("rm", help="take one value out", description="take one value out")
    remove.set_defaults(verb=config_rm)
    add_stack(remove)
    remove.add_argument("--path", action="store_true", help="KEY leads into an object: a.b[0].c")
    remove.add_argument("key", metavar="KEY")


def positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 up")
    return int(text)


# --- the engine's verbs -------------------------------------------------------------------------


def deployment(
    options: argparse.Namespace, *, world: bool = True, registry: bool = True
) -> Deployment:
    """The stack's engine; with `world`, the stand-ins are started and told to the providers.

    `registry`: in a home with images, registry and builder are waited for."""
    home = Home.current()
    with_images = options.stack == STACK and images.is_on(home)
    if world:
        found = stand_ins(home, with_images=with_images, registry=registry)
        for key, value in found.items():
            if key.startswith("PULUMI_"):
                os.environ.setdefault(key, value)
            else:
                os.environ[key] = value
    elif options.stack == STACK and "PULUMI_CONFIG_PASSPHRASE_FILE" not in os.environ:
        os.environ.setdefault("PULUMI_CONFIG_PASSPHRASE", serve.PASSPHRASE)
    return Deployment(
        Project.load(REPOSITORY, images.stack_file(home) if with_images else None),
        options.stack,
        Backend(home.state),
        parallel=getattr(options, "parallel", 16),
    )


def stand_ins(home: Home, *, with_images: bool, registry: bool) -> dict[str, str]:
    """Started if need be; the environment that leads there."""
    serve.ensure_serving(home)
    if with_images and registry:
        with Waiting(Console(stderr=True, highlight=False)) as say:
            images.turn_on(home, say)
    return serve.environment(home) | (images.environment(home) if with_images else {})


def environment(_options: argparse.Namespace, _console: Console) -> int:
    """For those who ask the stand-ins themselves, beside a run: `ops`."""
    home = Home.current()
    print(json.dumps(stand_ins(home, with_images=images.is_on(home), registry=True), indent=2))
    return 0


def edge(_options: argparse.Namespace, _console: Console) -> int:
    """Where the hosts of the zone are to be asked; the stand-ins need not be served for it."""
    home = Home.current()
    place = serve.place(home)
    at = {
        "address": f"127.0.0.1:{place.edge}",
        "ca": str(home.edge_ca),
        "cloudflare": serve.environment(home)["CLOUDFLARE_BASE_URL"],
    }
    print(json.dumps(at, indent=2))
    return 0


Run = Callable[..., Result]


def watch(
    run: Run, title: str, options: argparse.Namespace, console: Console, *, dry_run: bool
) -> Result:
    """Runs one verb under the display. The first Ctrl-C stops it in order, the second at once."""
    cancelled = threading.Event()

    def interrupted(_signal: int, _frame: object) -> None:
        if cancelled.is_set():
            # At once, whatever is under way: the state was written ahead, as for any kill -9.
            console.show_cursor()
            print(
                "\nkilled. What was under way stands in the state; the next run, after `python -m "
                f"rehearsal cancel --stack {options.stack}`, finds out what became of it",
                file=sys.stderr,
            )
            os._exit(KILLED)
        cancelled.set()
        console.print(Text("stopping: what has begun is finished first; Ctrl-C again to kill"))

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        diff = getattr(options, "diff", False)
        headline = f"{title} ({options.stack})"
        with Terminal(console, headline, dry_run=dry_run, diff=diff, news=Progress.news) as show:
            return run(show, targets=options.target, cancelled=cancelled)
    finally:
        signal.signal(signal.SIGINT, before)


def preview(options: argparse.Namespace, console: Console) -> int:
    engine = deployment(options)
    if options.json:
        tree = Tree()
        result = engine.preview(tree.take, targets=options.target)
        print(json.dumps(preview_digest(tree), indent=4))
    else:
        result = watch(engine.preview, "Previewing", options, console, dry_run=True)
    if result.ok and options.expect_no_changes and changes(result):
        print("error: no changes were expected but changes would be made", file=sys.stderr)
        return 1
    return 0 if result.ok else 1


def changes(result: Result) -> int:
    return sum(count for op, count in result.changes.items() if op != "same")


def confirmed(options: argparse.Namespace, console: Console, question: str) -> bool:
    if options.yes:
        return True
    if not sys.stdin.isatty():
        raise EngineError("without a terminal nobody can be asked: pass --yes to go on")
    console.print()
    return console.input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def changing(
    verb: str, title: str, question: str, options: argparse.Namespace, console: Console
) -> int:
    """Preview, question, run: the way that each changing verb of the CLI goes."""
    # Images stay in the registry, so nothing of a destroy asks it or waits for it.
    engine = deployment(options, registry=verb != "destroy")
    if not options.skip_preview:
        rehearse = engine.preview if verb == "up" else partial(getattr(engine, verb), dry_run=True)
        planned = watch(rehearse, f"Previewing {verb}", options, console, dry_run=True)
        if not planned.ok:
            return 1
    if not confirmed(options, console, question):
        console.print("nothing was changed")
        return 1
    if not options.skip_preview:
        console.print()
    run = getattr(engine, verb)
    if verb == "up":
        run = partial(run, message=options.message)
    result = watch(run, title, options, console, dry_run=False)
    return 0 if result.ok else 1


def up(options: argparse.Namespace, console: Console) -> int:
    return changing("up", "Updating", "Do it?", options, console)


def refresh(options: argparse.Namespace, console: Console) -> int:
    return changing("refresh", "Refreshing", "Write this into the state?", options, console)


def destroy(options: argparse.Namespace, console: Console) -> int:
    return changing("destroy", "Destroying", "Delete all of it?", options, console)


def stack_export(options: argparse.Namespace, _console: Console) -> int:
    text = json.dumps(deployment(options, world=False).export(), indent=4)
    if options.file:
        Path(options.file).write_text(text + "\n")
    else:
        print(text)
    return 0


def stack_import(options: argparse.Namespace, console: Console) -> int:
    name = options.file or "standard input"
    try:
        text = Path(options.file).read_text() if options.file else sys.stdin.read()
        exported = json.loads(text)
    except (OSError, ValueError) as cause:
        raise EngineError(f"{name} is no exported stack: {cause}") from None
    deployment(options, world=False).import_(exported)
    console.print(f"the stack {options.stack} is now what {name} says")
    return 0


def stack_output(options: argparse.Namespace, _console: Console) -> int:
    outputs = deployment(options, world=False).outputs()
    shown = {
        key: reveal(value) if options.show_secrets else mask(value)
        for key, value in outputs.items()
    }
    if options.name is None:
        if options.json:
            print(json.dumps(shown, indent=4))
        else:
            for key, value in sorted(shown.items()):
                print(f"{key:<16}  {value if isinstance(value, str) else json.dumps(value)}")
        return 0
    if options.name not in shown:
        known = ", ".join(sorted(shown)) or "none yet: run `up` first"
        raise EngineError(f"the stack {options.stack} has no output {options.name!r} ({known})")
    value = shown[options.name]
    print(value if isinstance(value, str) and not options.json else json.dumps(value))
    return 0


def reveal(value: Any) -> Any:
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, dict):
        return {key: reveal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [reveal(item) for item in value]
    return value


def stack_history(options: argparse.Namespace, console: Console) -> int:
    updates = deployment(options, world=False).history()
    if options.json:
        print(json.dumps(updates, indent=4))
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("Started", "Verb", "Result", "Changes"):
        table.add_column(column)
    for update in updates:
        counts = ", ".join(f"{n} {op}" for op, n in sorted(update["resourceChanges"].items()))
        table.add_row(when(update["startTime"]), update["kind"], update["result"], counts)
    console.print(table)
    return 0


def config(options: argparse.Namespace, _console: Console) -> int:
    """The CLI's own shape: a value as text, an object also as itself, secrets only when asked."""
    found = deployment(options, world=False).configuration()
    shown: dict[str, dict[str, Any]] = {}
    for key, value in sorted(found.values.items()):
        secret = key in found.secret_keys
        shown[key] = {"secret": secret}
        if not secret or options.show_secrets:
            shown[key] = {"value": value, **as_object(value), "secret": secret}
    if options.json:
        print(json.dumps(shown, indent=2))
    else:
        for key, entry in shown.items():
            print(f"{key:<28}  {entry.get('value', '[secret]')}")
    return 0


def config_set(options: argparse.Namespace, console: Console) -> int:
    engine = deployment(options, world=False)
    value = options.value
    if value is None:
        value = sys.stdin.read().removesuffix("\n")
    encrypt = open_crypter(StackFile.load(engine.project, options.stack).salt).encrypt
    file, key = own_setting(engine.project, options)
    set_value(file, key, value, encrypt if options.secret else None, by_path=options.path)
    console.print(f"{key} is set in {file}")
    return 0


def config_rm(options: argparse.Namespace, console: Console) -> int:
    file, key = own_setting(deployment(options, world=False).project, options)
    remove_value(file, key, by_path=options.path)
    console.print(f"{key} is not set in {file}")
    return 0


def own_setting(project: Project, options: argparse.Namespace) -> tuple[Path, str]:
    """(the file that this stack's settings are written to, the key with its project)"""
    key = options.key if ":" in options.key else f"{project.name}:{options.key}"
    if project.config_file:
        return images.own_settings(Home.current()), key
    return project.stack_file(options.stack), key


def as_object(value: str) -> dict[str, Any]:
    try:
        loaded = json.loads(value)
    except ValueError:
        return {}
    return {"objectValue": loaded} if isinstance(loaded, dict | list) else {}


def whoami(options: argparse.Namespace, _console: Console) -> int:
    user = getpass.getuser()
    url = f"file://{Home.current().state}"
    print(json.dumps({"user": user, "url": url}, indent=2) if options.json else user)
    return 0


def graph(options: argparse.Namespace, console: Console) -> int:
    engine = deployment(options, world=False)
    steps = steps_of(engine.backend.last_up(engine.project.name, options.stack))
    drawn = draw(engine.resources(), steps, options.stack)
    if not options.output:
        print(drawn, end="")
        return 0
    try:
        Path(options.output).write_text(drawn)
    except OSError as cause:
        raise EngineError(f"--output {options.output}: {cause.strerror}") from None
    console.print(f"drew {options.output}")
    return 0


def when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


def cancel(options: argparse.Namespace, console: Console) -> int:
    deployment(options, world=False).cancel()
    console.print(f"the lock of {options.stack} is removed")
    return 0


# --- the rehearsal's own verbs ------------------------------------------------------------------


def guided(options: argparse.Namespace, console: Console) -> int:
    options.yes = True
    home = Home.current()
    if options.images or images.is_on(home):
        turn_images_on(home, console, asked=options.images)
    engine = deployment(options, registry=False)  # it was waited for just now
    if not watch(engine.preview, "1  Previewing", options, console, dry_run=True).ok:
        return 1
    console.print()
    if not watch(engine.up, "2  Updating", options, console, dry_run=False).ok:
        console.print("\nnothing is lost: mend the cause and run `make rehearse` again")
        return 1
    console.print()
    again = watch(engine.preview, "3  Previewing again", options, console, dry_run=True)
    if not again.ok:
        return 1
    if changes(again):
        console.print(Text("error: the second preview should be empty", style="red"))
        return 1
    console.print()
    from rehearsal.page import print_page  # noqa: PLC0415 - the Kubernetes client, for this alone

    if problem := print_page(console, engine, home):
        raise ForgeError(f"what runs cannot be pulled: {problem}")
    return 0


def turn_images_on(home: Home, console: Console, *, asked: bool) -> None:
    """Or says why this machine cannot, and goes on with prebuilt references."""
    reason = images.why_not()
    if reason and not images.is_on(home):
        console.print(Text("0  Registry and builder: not here", style="bold"))
        console.print(Text(f"  {reason}", style="yellow"), soft_wrap=True)
        console.print(
            "  Nothing is built: the Deployments name the made-up digests of "
            "Pulumi.rehearsal.yaml.\n",
            soft_wrap=True,
        )
        return
    console.print(Text("0  Registry and builder", style="bold"))
    if not asked:
        console.print("  this home has images, and keeps them until `python -m rehearsal reset`")
    with Waiting(console) as say:
        server = images.turn_on(home, say)
    app = images.app_folder(home)
    console.print(
        Text(f"  Gitea answers at {server}; the application's checkout is {app}\n"), soft_wrap=True
    )


def serve_verb(options: argparse.Namespace, console: Console) -> int:
    home = Home.current()
    failed: list[Exception] = []

    def tell() -> None:
        if options.images or images.is_on(home):
            try:
                turn_images_on(home, console, asked=options.images)
            except (serve.ServeError, ForgeError) as failure:
                if serve.serving(home):  # else it was ended meanwhile, and that is no failure
                    failed.append(failure)
                    os.kill(os.getpid(), signal.SIGTERM)
                return
        with_images = images.is_on(home)
        found = serve.environment(home) | (images.environment(home) if with_images else {})
        console.print("With the Pulumi CLI, in another terminal:\n")
        for key, value in found.items():
            shown = value.replace(os.environ.get("PATH", ""), "$PATH") if key == "PATH" else value
            console.print(f"  export {key}={shown}", soft_wrap=True)
        file = f" --config-file {images.stack_file(home)}" if with_images else ""
        console.print("  pulumi stack select --create rehearsal", soft_wrap=True)
        console.print(f"  pulumi up -s rehearsal{file}", soft_wrap=True)
        console.print("\nCtrl-C ends them; their contents stay until `make reset`.")

    def ready() -> None:
        console.print("The stand-ins of Hetzner and Cloudflare answer on this machine.")
        # Beside the main thread, which waits for Ctrl-C: a cold machine builds for minutes.
        threading.Thread(target=tell, daemon=True).start()

    serve.serve(home, ready)
    if failed:
        raise failed[0]
    return 0


def down(_options: argparse.Namespace, console: Console) -> int:
    ended = serve.down(Home.current())
    count = f"{len(ended)} process{'es' if len(ended) > 1 else ''}"
    console.print(f"{count} ended, the state is kept" if ended else "nothing was running")
    return 0


def reset(_options: argparse.Namespace, console: Console) -> int:
    home = Home.current()
    serve.reset(home)
    console.print(f"{home.root} is forgotten")
    return 0


def told_behaviours() -> str:
    words = (f"{kind}{' SECONDS' * (kind == 'slow')}: {is_}" for kind, is_ in KINDS.items())
    return "; ".join(words)


def behave_verb(options: argparse.Namespace, console: Console) -> int:
    try:
        told = Behaviour.parse(options.how)
        behave(behaviour_file(Home.current()), options.whom, told)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console.print(f"{options.whom}: for pods that start from now on, {KINDS[told.kind]}")
    if told.kind != "ok":
        console.print(f"  to undo: python -m rehearsal behave {options.whom} ok")
    return 0


def lose_verb(options: argparse.Namespace, console: Console) -> int:
    if options.what == "server" and not options.name:
        raise EngineError("which server? python -m rehearsal lose server honeydue-2")
    console.print(lose(Home.current(), options.what, options.name, options.stack))
    return 0
