"""The commands and their options; what goes wrong becomes lines and an exit code here.

Exit codes: 0 done, 1 it could not be done, 2 what was asked for is wrong (one line a fault).
"""

import asyncio
import dataclasses
import importlib.metadata
import json
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from mailrelay.queue.connection import ConnectionSettings
from mailrelay.queue.errors import QueueError, StreamMismatchError
from mailrelay.queue.names import Names
from mailrelay.queue.rights import Role
from mailrelay.queue.server_config import MINIMUM_STORE_BYTES
from mailrelay.queue.streams import REPLICAS
from mailrelay.runtime.lifecycle import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_OK
from mailrelay.runtime.logging import configure_logging
from mailrelay_cli.backup_commands import backup_command, restore_command
from mailrelay_cli.checked_config import checked_config, checked_relay
from mailrelay_cli.config_command import explained, schema, table
from mailrelay_cli.console import complain, say
from mailrelay_cli.emails import emails_app
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.for_containers import PrepareOptions, needed_store_bytes, prepare
from mailrelay_cli.health import health
from mailrelay_cli.limits import LimitsOptions, show_limits
from mailrelay_cli.mail_commands import captured_app, failed_app
from mailrelay_cli.prepare import RunOptions
from mailrelay_cli.queue_step import ensure_queue, queue_limits
from mailrelay_cli.run import run_relay
from mailrelay_cli.send import SendOptions, send
from mailrelay_cli.upstream_check import check_upstream
from mailrelay_cli.users import users_app

app = typer.Typer(
    name="mailrelay",
    help="An outbound mail relay.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
queue_app = typer.Typer(help="The queue at NATS.")
config_app = typer.Typer(help="The relay's configuration.")
app.add_typer(queue_app, name="queue")
queue_app.command("backup")(backup_command)
queue_app.command("restore")(restore_command)
app.add_typer(config_app, name="config")
upstream_app = typer.Typer(help="The server that mail goes on to.")
app.add_typer(upstream_app, name="upstream")
app.add_typer(users_app, name="users")
app.add_typer(emails_app, name="emails")
app.add_typer(failed_app, name="failed")
app.add_typer(captured_app, name="captured")

_ENSURE_SECONDS = 60.0  # a cluster may still be electing its leaders


class LogFormat(Enum):
    """How log lines look."""

    JSON = "json"
    TEXT = "text"


class LogTo(Enum):
    """Where log lines go."""

    FILE = "file"
    STDOUT = "stdout"


ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        help="Configuration file; default: none and the development defaults, in a container "
        "/app/config.json.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set an option; goes before all else."),
]
DataDirOption = Annotated[Path, typer.Option("--data-dir", help="Where the relay keeps its data.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        say(context.get_help())


@app.command("run")
def run_command(
    config: ConfigOption = None,
    data_dir: DataDirOption = Path("data"),
    log_format: Annotated[LogFormat, typer.Option(help="How log lines look.")] = LogFormat.JSON,
    log_to: Annotated[
        LogTo, typer.Option(help="Where they go: the data folder, or standard output and no file.")
    ] = LogTo.FILE,
    set_: SetOption = None,
    smtp_port: Annotated[int | None, typer.Option(help="Short for --set smtpPort=…")] = None,
    http_port: Annotated[int | None, typer.Option(help="Short for --set healthCheckPort=…")] = None,
) -> int:
    """Run a whole relay on this machine, in the foreground."""
    ports = {"smtpPort": smtp_port, "healthCheckPort": http_port}
    short = [f"{key}={port}" for key, port in ports.items() if port is not None]
    overrides = (*(set_ or ()), *short)
    return run_relay(
        RunOptions(config, data_dir, log_format.value, overrides, log_to is LogTo.STDOUT)
    )


@app.command("send")
def send_command(
    to: Annotated[list[str] | None, typer.Option(help="Recipient; may be repeated.")] = None,
    sender: Annotated[str | None, typer.Option("--from", help="Sender.")] = None,
    subject: Annotated[str, typer.Option(help="Subject.")] = "MailRelay test",
    config: ConfigOption = None,
    data_dir: DataDirOption = Path("data"),
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait in all.")] = 30.0,
) -> int:
    """Hand a test message to the running relay and tell what became of it."""
    return send(SendOptions(to or [], sender, subject, config, data_dir, timeout))


@app.command("limits")
def limits_command(
    sender: Annotated[
        str | None, typer.Option(help="Only this sender; <> for the null reverse path.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, max=1000, help="Senders' counters shown.")] = 100,
    data_dir: DataDirOption = Path("data"),
) -> int:
    """Tell how far the running relay's rate limits are used up."""
    return show_limits(LimitsOptions(sender, rows, data_dir))


@app.command("health")
def health_command(data_dir: DataDirOption = Path("data")) -> int:
    """Tell whether mail can be taken now: a container's health check."""
    return health(data_dir)


@app.command("prepare")
def prepare_command(
    folder: Annotated[Path, typer.Option(help="Where to: each folder in it belongs to a role.")],
    store_dir: Annotated[
        Path, typer.Option(help="Where nats-server is to keep the queue, as it will see it.")
    ] = Path("/data"),
    config: ConfigOption = None,
) -> int:
    """Make keys, a user, a token and nats-server's configuration for several containers, once."""
    return prepare(PrepareOptions(folder, store_dir, config))


@queue_app.command("ensure")
def ensure_command(
    nats: Annotated[
        str,
        typer.Option(
            help="Where NATS is: nats://host:port, of a cluster several with commas.",
            envvar="MAILRELAY_NATS_URL",
        ),
    ],
    seed_file: Annotated[
        Path, typer.Option(help="The admin's NKey seed.", envvar="MAILRELAY_NATS_SEED_FILE")
    ],
    store_bytes: Annotated[
        int | None,
        typer.Option(min=MINIMUM_STORE_BYTES, help="The queue's space; default: queue.storeBytes."),
    ] = None,
    prefix: Annotated[
        str | None, typer.Option(help="First part of all names; default: the configuration's.")
    ] = None,
    config: ConfigOption = None,
    replicas: Annotated[
        int | None, typer.Option(help="Copies of each stream: 1, 3 or 5; default: queue.replicas.")
    ] = None,
) -> int:
    """Make the queue's streams what this version needs, and print what changed."""
    relay = checked_config(config)
    try:
        names = Names(prefix if prefix is not None else relay.queue.prefix)
    except ValueError as error:
        raise BadInputError(f"--prefix: {error}") from error
    if not seed_file.is_file():
        raise BadInputError(f"--seed-file: {seed_file} is not a file")
    settings = ConnectionSettings(nats, Role.ADMIN.value, seed_file, names.prefix)
    size = store_bytes if store_bytes is not None else needed_store_bytes(relay)
    limits = queue_limits(relay, size)
    if replicas is not None:
        if replicas not in REPLICAS:
            raise BadInputError(f"--replicas: must be 1, 3 or 5, is {replicas}")
        limits = dataclasses.replace(limits, replicas=replicas)
    log = configure_logging("queue", "text")
    try:
        changes = asyncio.run(ensure_queue(settings, limits, log, _ENSURE_SECONDS))
    except (QueueError, StreamMismatchError) as error:
        complain(str(error))
        return EXIT_FAILED
    say(*(changes or ["nothing to change"]))
    return EXIT_OK


@config_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(help="Configuration file.", show_default=False)],
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,  # noqa: FBT002 — a flag
) -> int:
    """Show each value and where it came from, secrets masked; or say what is wrong."""
    loaded = checked_relay(file, set_ or ())
    if as_json:
        say(json.dumps(explained(loaded), indent=2, ensure_ascii=False))
    else:
        say(*table(loaded), "ok")
    return EXIT_OK


@config_app.command("schema")
def schema_command() -> int:
    """Print the JSON Schema of the configuration file."""
    say(json.dumps(schema(), indent=2, ensure_ascii=False))
    return EXIT_OK


@upstream_app.command("check")
def upstream_check_command(config: ConfigOption = None, set_: SetOption = None) -> int:
    """Try DNS, connection, TLS, EHLO and AUTH step by step; send nothing."""
    return check_upstream(checked_relay(config, set_ or ()).config, say)


@app.command("version")
def version_command() -> int:
    """Print the version."""
    say(importlib.metadata.version("mailrelay-cli"))
    return EXIT_OK


def main() -> None:
    """Run the command line and exit."""
    sys.exit(_exit_code())


def _exit_code() -> int:
    try:
        code = app(standalone_mode=False)
    except TyperException as error:  # unknown options and commands, wrong values
        words = " ".join(error.format_message().replace("Value error, ", "").split())
        complain(f"mailrelay: {words}")
        return EXIT_BAD_INPUT
    except BadInputError as error:
        complain(*error.faults)
        return EXIT_BAD_INPUT
    except Abort:
        return 128 + signal.SIGINT
    return code if isinstance(code, int) else EXIT_OK


if __name__ == "__main__":
    main()
