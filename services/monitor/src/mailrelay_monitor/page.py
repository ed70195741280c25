"""The page for people: the totals and the newest mail, in plain HTML. Everything is escaped."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape

from mailrelay_monitor.health import Health
from mailrelay_monitor.index import SubmissionRow
from mailrelay_monitor.totals import Totals

ROWS = 50
_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.25rem .6rem;"
    "border-bottom:1px solid #ccc;vertical-align:top;overflow-wrap:anywhere}"
    "td:nth-child(1),td:nth-child(2),td:nth-child(5){white-space:nowrap}"
    "dl{display:flex;flex-wrap:wrap;gap:1.5rem}dt{color:#555}dd{margin:0;font-size:1.4rem}"
)
# Nothing is loaded and nothing runs; the style stands in the page.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def render(totals: Totals, health: Health, rows: Iterable[SubmissionRow]) -> str:
    """Return the page."""
    numbers = [
        ("accepted", totals.total_emails),
        ("successful", totals.successful_emails),
        ("failed", totals.failed_emails),
        ("queued", totals.queued_emails),
        ("recipients", totals.total_recipients),
        ("mean time", f"{totals.avg_processing_time_ms} ms"),
    ]
    if totals.lost_emails:
        numbers.append(("lost", totals.lost_emails))
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in health.reasons)
    terms = "".join(f"<div><dt>{name}</dt><dd>{number}</dd></div>" for name, number in numbers)
    lines = "".join(_line(row) for row in rows)
    body = lines or '<tr><td colspan="6">No mail yet.</td></tr>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        '<meta http-equiv="refresh" content="2">'
        f"<title>MailRelay: {health.status.value}</title><style>{_STYLE}</style></head><body>"
        "<h1>MailRelay</h1>"
        "<p>This relay takes mail over SMTP, keeps it on disk and passes it on. "
        f"It is <strong>{health.status.value}</strong>.</p><ul>{reasons}</ul><dl>{terms}</dl>"
        f"<h2>The newest mail</h2><table><thead><tr><th>Queue id</th><th>Accepted (UTC)</th>"
        "<th>From</th><th>To</th><th>State</th><th>Last reply</th></tr></thead>"
        f"<tbody>{body}</tbody></table></body></html>\n"
    )


def _line(row: SubmissionRow) -> str:
    first = row.recipients[0] if row.recipients else None
    more = row.total_recipients - 1
    recipient = (first.address if first else "?") + (f" and {more} more" if more > 0 else "")
    accepted = datetime.fromtimestamp(row.accepted_at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    cells = (
        row.id,
        accepted,
        row.reverse_path or "<>",
        recipient,
        row.state,
        first.reply if first else "",
    )
    return "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>"
