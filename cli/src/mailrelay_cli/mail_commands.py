"""`mailrelay failed …` and `mailrelay captured …`: what the monitor's HTTP does, as commands."""

import functools
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

from mailrelay.runtime.lifecycle import EXIT_FAILED, EXIT_OK
from mailrelay_cli.console import complain, say
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.monitor_client import CannotBeDoneError, MonitorClient

failed_app = typer.Typer(help="Mail that could not be delivered.", no_args_is_help=True)
captured_app = typer.Typer(help="Mail that was kept instead of sent.", no_args_is_help=True)

_P = ParamSpec("_P")

DataDir = Annotated[Path, typer.Option("--data-dir", help="Where the relay keeps its data.")]
Id = Annotated[str, typer.Argument(help="Queue id, or <queue id>/<recipient number>.")]
Ids = Annotated[
    list[str] | None, typer.Argument(help="Queue ids, or <queue id>/<recipient number>.")
]
QueueId = Annotated[str, typer.Argument(help="Queue id.")]
QueueIds = Annotated[list[str] | None, typer.Argument(help="Queue ids.")]
Sender = Annotated[str | None, typer.Option(help="Only mail of this sender; `<>` for none.")]
Domain = Annotated[str | None, typer.Option(help="Only recipients in this domain.")]
Code = Annotated[str | None, typer.Option(help="Only with this last reply: 451, or 4.7.1.")]
Since = Annotated[str | None, typer.Option(help="Only what failed at this time or later.")]
Until = Annotated[str | None, typer.Option(help="Only what failed at this time or earlier.")]
All = Annotated[bool, typer.Option("--all", help="Everything there is.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="How many lines at most.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the monitor's answer.")]


def _command(function: Callable[_P, None]) -> Callable[_P, int]:
    """Turn what the monitor cannot do into a line and an exit code."""

    @functools.wraps(function)
    def run(*arguments: _P.args, **options: _P.kwargs) -> int:
        try:
            function(*arguments, **options)
        except CannotBeDoneError as error:
            complain(str(error))
            return EXIT_FAILED
        return EXIT_OK

    return run


@failed_app.command("list")
@_command
def list_failed(  # noqa: PLR0913, PLR0917 — options
    ids: Ids = None,
    sender: Sender = None,
    domain: Domain = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = 50,
    json_output: AsJson = False,  # noqa: FBT002 — a flag
    data_dir: DataDir = Path("data"),
) -> None:
    """List failed recipients, those that failed longest ago first."""
    which = _filter(ids, sender, domain, code, since, until)
    answer = MonitorClient(data_dir).ask("GET", "api/failed", query={**which, "limit": limit})
    if json_output:
        return say(json.dumps(answer, indent=2, ensure_ascii=False))
    for row in answer["failed"]:
        say(_failed_line(row))
    rest = answer["matching"] - len(answer["failed"])
    return say(f"and {rest} more" if rest > 0 else f"{answer['matching']} in all")


@failed_app.command("show")
@_command
def show_failed(queue_id: Id, data_dir: DataDir = Path("data")) -> None:
    """Show all that is known of a failed message but its content, as JSON."""
    answer = MonitorClient(data_dir).ask("GET", f"api/failed/{_in_path(queue_id)}")
    say(json.dumps(answer["failed"], indent=2, ensure_ascii=False))


@failed_app.command("resend")
@_command
def resend_failed(  # noqa: PLR0913, PLR0917 — options
    ids: Ids = None,
    sender: Sender = None,
    domain: Domain = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,  # noqa: FBT002 — a flag
    data_dir: DataDir = Path("data"),
) -> None:
    """Have failed mail sent once more."""
    which = _filter(ids, sender, domain, code, since, until)
    _say_which(everything, bool(which))
    answer = MonitorClient(data_dir).ask("POST", "admin/retry-failed", body=which)
    say(
        f"request {answer['request']}: {answer['resent']} to be resent, "
        f"{answer['already_resending']} on their way already, "
        f"{answer['unreadable']} that cannot be read"
    )


@failed_app.command("progress")
@_command
def resend_progress(data_dir: DataDir = Path("data")) -> None:
    """Tell what became of resends, as far as the running monitor knows."""
    for one in MonitorClient(data_dir).ask("GET", "admin/retry-failed")["requests"]:
        numbers = ("asked", "waiting", "queued", "delivered", "failed_again", "gone")
        words = ", ".join(f"{name.replace('_', ' ')} {one[name]}" for name in numbers)
        say(f"request {one['request']} at {one['asked_at']} by {one['by']}: {words}")


@failed_app.command("delete")
@_command
def delete_failed(  # noqa: PLR0913, PLR0917 — options
    ids: Ids = None,
    sender: Sender = None,
    domain: Domain = None,
    code: Code = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,  # noqa: FBT002 — a flag
    data_dir: DataDir = Path("data"),
) -> None:
    """Delete failed mail; it cannot be had back."""
    which = _filter(ids, sender, domain, code, since, until)
    _say_which(everything, bool(which))
    query = {"all": "true"} if everything else which
    answer = MonitorClient(data_dir).ask("DELETE", "api/failed", query=query)
    say(f"{answer['deleted']} deleted")


@captured_app.command("list")
@_command
def list_captured(
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many lines at most.")] = 50,
    json_output: AsJson = False,  # noqa: FBT002 — a flag
    data_dir: DataDir = Path("data"),
) -> None:
    """List captured mail, the oldest first."""
    answer = MonitorClient(data_dir).ask("GET", "api/captured", query={"limit": limit})
    if json_output:
        return say(json.dumps(answer, indent=2, ensure_ascii=False))
    for row in answer["captured"]:
        say(_captured_line(row))
    return say(f"{answer['records']} in all")


@captured_app.command("show")
@_command
def show_captured(queue_id: QueueId, data_dir: DataDir = Path("data")) -> None:
    """Write a captured (or failed) message to standard output, as it was sent."""
    sys.stdout.flush()
    client = MonitorClient(data_dir)
    client.download(f"api/messages/{_in_path(queue_id)}/content", sys.stdout.buffer.write)
    sys.stdout.buffer.flush()


@captured_app.command("release")
@_command
def release_captured(
    ids: QueueIds = None,
    everything: All = False,  # noqa: FBT002 — a flag
    next_hop: Annotated[
        str | None, typer.Option(help="host:port; without it the configured upstream.")
    ] = None,
    data_dir: DataDir = Path("data"),
) -> None:
    """Send captured mail on; the captured copy stays."""
    _say_which(everything, bool(ids))
    body: dict[str, Any] = {"all": True} if everything else {"ids": ids}
    body["request"] = secrets.token_hex(8)
    if next_hop is not None:
        body["next_hop"] = next_hop
    answer = MonitorClient(data_dir).ask("POST", "admin/release", body=body)
    say(f"request {answer['request']}: {answer['asked']} to be released to {answer['next_hop']}")


@captured_app.command("delete")
@_command
def delete_captured(
    ids: QueueIds = None,
    everything: All = False,  # noqa: FBT002 — a flag
    data_dir: DataDir = Path("data"),
) -> None:
    """Delete captured mail; it cannot be had back."""
    _say_which(everything, bool(ids))
    client = MonitorClient(data_dir)
    if everything:
        deleted = client.ask("DELETE", "api/captured", query={"all": "true"})["deleted"]
    else:
        answers = [client.ask("DELETE", f"api/captured/{_in_path(one)}") for one in ids or []]
        deleted = sum(answer["deleted"] for answer in answers)
    say(f"{deleted} deleted")


def _filter(
    ids: list[str] | None,
    sender: str | None,
    domain: str | None,
    code: str | None,
    since: str | None,
    until: str | None,
) -> dict[str, Any]:
    asked = {
        "id": ids,
        "sender": sender,
        "recipient_domain": domain,
        "reply_code": code,
        "since": since,
        "until": until,
    }
    return {key: value for key, value in asked.items() if value is not None}


def _say_which(everything: bool, some: bool) -> None:  # noqa: FBT001 — a plain yes or no
    if everything == some:
        raise BadInputError("say which: --all, or something that chooses (see --help)")


def _in_path(text: str) -> str:
    """Keep what is no id from becoming another path."""
    if not text or not all(character.isalnum() or character == "/" for character in text):
        raise BadInputError(f"{text!r} is no queue id")
    return text


def _failed_line(row: dict[str, Any]) -> str:
    return (
        f"{row['id']}/{row['recipient_number']}  {row['failed_at']}  {row['disposition']}  "
        f"<{row['sender']}> -> {row['recipient']}  {row['reply']}"
    )


def _captured_line(row: dict[str, Any]) -> str:
    if row.get("unreadable"):
        return f"{row['id']}  cannot be read by this version"
    to = ", ".join(row["recipients"][:3]) + (", …" if len(row["recipients"]) > 3 else "")  # noqa: PLR2004 — as many as fit a line
    size = f"{row['size_bytes']} octets"
    return f"{row['id']}  {row['captured_at']}  {size}  <{row['sender']}> -> {to}"
