"""`config.json` as people write it: JSON with `//` and `/* */` comments."""

from __future__ import annotations

import json
import re
from typing import Any

# A string is matched first and kept, so that `//` inside one is no comment.
_TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|//[^\n]*|/\*.*?\*/', re.DOTALL)


class ConfigTextError(ValueError):
    """The file is no JSON object; says line and column."""


def parse_config_text(text: str) -> dict[str, Any]:
    """Parse the text of a configuration file. Raises ConfigTextError."""
    try:
        parsed = json.loads(_TOKEN.sub(_blank_comment, text), object_pairs_hook=_no_duplicates)
    except json.JSONDecodeError as error:
        hint = "; remove the comma before the closing bracket" if _trailing_comma(error) else ""
        msg = f"line {error.lineno}, column {error.colno}: {error.msg}{hint}"
        raise ConfigTextError(msg) from error
    except ConfigTextError:
        raise
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, such things
        msg = f"cannot be read: {error}"
        raise ConfigTextError(msg) from error
    if not isinstance(parsed, dict):
        msg = f"must be a JSON object {{…}}, is {type(parsed).__name__}"
        raise ConfigTextError(msg)
    return parsed


def _blank_comment(match: re.Match[str]) -> str:
    token = match.group()
    if token.startswith('"'):
        return token
    return re.sub(r"[^\n]", " ", token)  # lines and columns in errors stay true


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            msg = f"the key {key!r} stands twice"
            raise ConfigTextError(msg)
        found[key] = value
    return found


def _trailing_comma(error: json.JSONDecodeError) -> bool:
    before, rest = error.doc[: error.pos].rstrip(), error.doc[error.pos :].lstrip()
    if rest.startswith(","):  # Python 3.13 points at the comma, older ones behind it
        before, rest = ",", rest[1:].lstrip()
    return before.endswith(",") and rest[:1] in {"}", "]"}
