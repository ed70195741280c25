"""docs/reference/config.md: every option of `mailrelay.config.model`."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from mailrelay.config.defaults import CONTAINER, DEVELOPMENT
from mailrelay.config.load import Option, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.words import allowed, plain, section_type
from tools.reference.markdown import code, table

_INTRODUCTION = """\
# Configuration

`config.json` is a JSON object with the keys below; `//` and `/* */` comments are allowed, unknown
keys are not. `mailrelay run --config FILE` reads it, `mailrelay config check FILE` shows each value
and where it came from, or says what is wrong; `mailrelay config schema` prints the JSON Schema.

`mailrelay run --set KEY=VALUE` goes before the environment variable, that before the file, the file
before the default. In a variable and behind `--set` a list is written with commas. A secret is not
taken from the command line. A list of objects has its place in the file alone; the keys of its
objects have tables of their own.

Without `--config` the development defaults hold: the default in brackets where one is given. In a
container others differ, with a file or without: see the end of this page.
Some options are taken and have no effect yet: the README lists them, and `mailrelay run` warns.

A change of the file is noticed within three seconds, and at once by SIGHUP to `mailrelay run`.
Where the last column says `live` it is taken over without a restart; a change of the others is
named in the log and waits for one. While the file has a fault the old values stay in force as a
whole, and `/health` says so.
"""
_IN_A_CONTAINER = """\
## In a container

The images set `MAILRELAY_CONTAINER=1`; then these defaults hold. A client's address tells nothing
there: programs of the host and strangers both come from the engine's gateway, and loopback may be
a sidecar that hands strangers on. So nobody has rights by an address, and AUTH decides. `mailrelay
run` makes the file of users (one user, `mailrelay`, the password beside it in `smtp-password`) and
the token when they are missing and nobody named others.

"""
_CONTAINER_HEAD = ("Key", "Default", "In a container", "Not when this is set")
# Each breaks one rule that concerns more than one option; the text is the relay's own.
_OPEN: dict[str, Any] = {"security": {"requireAuth": False}}
_HOST: dict[str, Any] = {"host": "mx.example"}
_REST: dict[str, Any] = {"name": "a", "smartHosts": [_HOST]}
_EXAMPLE: dict[str, Any] = _REST | {"recipientDomains": ["example.org"]}
_BROKEN: tuple[dict[str, Any], ...] = (
    {},
    _OPEN | {"forwardSMTP": True},
    _OPEN | {"defaultUsername": "user"},
    _OPEN | {"forwardUsername": "user"},
    _OPEN | {"retry": {"initialIntervalSeconds": 60, "maxIntervalSeconds": 30}},
    _OPEN | {"tls": {"certFile": "cert.pem"}},
    _OPEN | {"tls": {"certFile": "cert.pem", "keyFile": "key.pem", "selfSigned": True}},
    _OPEN | {"tls": {"smtpsPort": 465}},
    _OPEN | {"smtpPort": 465, "tls": {"selfSigned": True, "smtpsPort": 465}},
    {"security": {"requireAuth": False, "allowedNetworks": ["192.0.2.1/24"]}},
    {"security": {"requireAuth": False, "allowLocalOnly": False, "allowedNetworks": ["::/0"]}},
    _OPEN | {"security": {"requireAuth": False, "trustLoopback": False}},
    {"security": {"requireAuth": False, "allowLocalOnly": False, "trustLoopback": False}},
    _OPEN | {"routes": [_REST | {"recipientDomains": []}]},
    _OPEN | {"routes": [_REST, _REST]},
    _OPEN | {"routes": [_REST, _REST | {"name": "b"}]},
    _OPEN | {"routes": [_EXAMPLE, _EXAMPLE | {"name": "b"}]},
    _OPEN | {"forwardSMTP": True, "forwardHost": "mx.example", "routes": [_REST]},
    _OPEN | {"routes": [{"name": "a", "smartHosts": [_HOST, _HOST]}]},
    _OPEN | {"routes": [{"name": "a", "smartHosts": [_HOST | {"username": "user"}]}]},
)


def config_page() -> str:
    """Return the page."""
    sections: dict[str, list[Option]] = {}
    for option in options():
        sections.setdefault(option.path[0] if option.path[1:] else "", []).append(option)
    parts = [_INTRODUCTION]
    head = ("Key", "Value", "Default", "Meaning", "Environment", "Change")
    for name, found in sections.items():
        title = code(name) if name else "Top level"
        parts.append(f"## {title}\n\n{_about(name)}" + table(head, map(_row, found)))
        for option in found:
            parts += _objects(f"{option.key}[]", section_type(option.field))
    rules = ((code(json.dumps(broken)), _fault(broken)) for broken in _BROKEN)
    parts.append(
        "## Rules across options\n\nEach of these files is refused, with these words:\n\n"
        + table(("File", "Refused with"), rules)
    )
    parts.append(_IN_A_CONTAINER + table(_CONTAINER_HEAD, _container_rows()))
    return "\n".join(parts)


def _objects(key: str, section: type[BaseModel] | None) -> Iterator[str]:
    """Yield a table for the objects of a list, and for those of the lists in them."""
    if section is None:
        return
    fields = section.model_fields.values()
    rows = (
        (
            code(str(field.alias)),
            allowed(field) + (", secret" if field.annotation is SecretStr else ""),
            "must be set" if field.is_required() else _shown(field.default),
            field.description or "",
        )
        for field in fields
    )
    about = inspect.cleandoc(section.__doc__ or "")
    yield f"### {code(key)}\n\n{about}\n\n" + table(("Key", "Value", "Default", "Meaning"), rows)
    for field in fields:
        yield from _objects(f"{key}.{field.alias}[]", section_type(field))


def _container_rows() -> list[tuple[str, ...]]:
    return [
        (
            code(option.key),
            _shown(option.field.default),
            _shown(here),
            ", ".join(map(code, CONTAINER.steps_back.get(option.key, ()))) or "never",
        )
        for option in options()
        if (here := _differing(CONTAINER.tree, option.path)) is not None
    ]


def _about(name: str) -> str:
    if not name:
        return ""
    field = next(field for field in RelayConfig.model_fields.values() if field.alias == name)
    section = field.annotation
    assert isinstance(section, type)  # noqa: S101 — `options` took it for a section
    assert issubclass(section, BaseModel)  # noqa: S101
    return f"{inspect.cleandoc(section.__doc__ or '')}\n\n"


def _row(option: Option) -> tuple[str, ...]:
    default = _shown(option.field.default)
    development = _differing(DEVELOPMENT.tree, option.path)
    if development is not None:
        default += f" [{_shown(development)}]"
    return (
        code(option.key),
        allowed(option.field) + (", secret" if option.is_secret else ""),
        default,
        option.field.description or "",
        "no, only the file" if option.is_sections else code(option.variable),
        "live" if option.is_reloadable else "restart",
    )


def _differing(tree: Mapping[str, Any], path: tuple[str, ...]) -> object:
    node: Any = tree
    for key in path:
        if not isinstance(node, Mapping) or key not in node:
            return None
        node = node[key]
    return typing.cast("object", node)


def _shown(value: object) -> str:
    return "none" if value is None else code(json.dumps(plain(value)))


def _fault(broken: dict[str, Any]) -> str:
    try:
        RelayConfig.model_validate(broken)
    except ValidationError as error:
        return error.errors()[0]["msg"].removeprefix("Value error, ")
    raise AssertionError(f"{broken} breaks no rule any more")
