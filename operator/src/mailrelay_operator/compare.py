"""Whether an object is as it is wanted, and what others have put into it (pure).

Server-side apply undoes neither a value that somebody else changed until it is applied again, nor,
ever, a field that somebody else added. So both are looked for here: `differences` compares values,
and `foreign_fields` reads `metadata.managedFields`, in which the API server keeps who set what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final

FIELD_MANAGER: Final = "mailrelay-operator"

Path = tuple[str | int, ...]

# What Kubernetes' own parts write into objects of ours is their business: a claim's volume name, a
# Service's node port. Everybody else's fields are extra.
_OWN_PARTS: Final = re.compile(
    r"kube-(controller-manager|scheduler|apiserver)|kubelet|(.*-)?cloud-controller-manager"
)

# `kubectl rollout restart` sets it; undone, the pods would be rolled a second time.
_TOLERATED: Final = frozenset(
    {
        (
            "spec",
            "template",
            "metadata",
            "annotations",
            "kubectl.kubernetes.io/restartedAt",
        )
    }
)


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    """Name each wanted field that is missing or another, by its path.

    Fields that only `found` has are none of these: the server sets defaults. Lists must be equally
    long and are compared in order. An empty value and a missing one are the same, and so are two
    spellings of a quantity.
    """
    for key, value in wanted.items():
        if key in {"apiVersion", "kind"}:
            continue
        below = found.get(key)
        if key == "metadata":
            kept = ("labels", "annotations", "ownerReferences")
            value = {name: value[name] for name in kept if name in value}  # noqa: PLW2901 — part of it
        yield from _differences(value, below, key)


def _differences(wanted: Any, found: Any, path: str) -> Iterator[str]:  # noqa: ANN401 — JSON
    if _is_nothing(wanted) and _is_nothing(found):
        return
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key, value in wanted.items():
            yield from _differences(value, found.get(key), f"{path}.{key}")
    elif _is_list(wanted) and _is_list(found) and len(wanted) == len(found):
        for index, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif wanted != found and not _is_same_quantity(wanted, found, path):
        yield path


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_nothing(value: Any) -> bool:  # noqa: ANN401 — JSON
    """Tell whether the server leaves the value out when it stores it."""
    if isinstance(value, Mapping):
        return all(_is_nothing(below) for below in value.values())
    return value is None or value is False or value == 0 or value in ("", [], ())


_QUANTITY = re.compile(r"([+-]?[0-9.]+)(?:([KMGTPE]i)|([numkMGTPE])|[eE]([+-]?[0-9]+))?")
_BINARY = {f"{letter}i": 1024 ** (power + 1) for power, letter in enumerate("KMGTPE")}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY_PATHS = re.compile(r"\.(requests|limits|capacity)\.|\.sizeLimit$")


def _is_same_quantity(wanted: object, found: object, path: str) -> bool:
    if not _QUANTITY_PATHS.search(path):
        return False
    one, other = quantity(str(wanted)), quantity(str(found))
    return one is not None and one == other


def quantity(text: str) -> Decimal | None:
    """Return what a Kubernetes quantity such as `500m` or `10Gi` amounts to; None if it is none."""
    match = _QUANTITY.fullmatch(text)
    if match is None:
        return None
    try:
        number = Decimal(match[1])
    except InvalidOperation:
        return None
    if match[2]:
        return number * Decimal(_BINARY[match[2]])
    return number.scaleb(_DECIMAL[match[3]] if match[3] else int(match[4] or 0))


def foreign_fields(found: Mapping[str, Any], roots: Sequence[str]) -> list[Path]:
    """Return where in `found` somebody else has set what we do not, below one of `roots`.

    A path's steps are keys and list indices. Fields that were set through a subresource (`status`,
    `scale`) or by Kubernetes' own parts are not counted.
    """
    entries = found.get("metadata", {}).get("managedFields", ())
    ours: dict[str, Any] = {}
    for entry in entries:
        if entry.get("manager") == FIELD_MANAGER and entry.get("operation") == "Apply":
            ours = entry.get("fieldsV1", {})
    paths: list[Path] = []
    for entry in entries:
        if entry.get("fieldsV1") is ours or entry.get("subresource"):
            continue
        if _OWN_PARTS.fullmatch(entry.get("manager", "")):
            continue
        theirs = entry.get("fieldsV1", {})
        for root in roots:
            step = f"f:{root}"
            if step in theirs:
                paths += _extra({step: theirs[step]}, ours, found, ())
    return [path for path in dict.fromkeys(paths) if path not in _TOLERATED]


def _extra(
    theirs: Mapping[str, Any],
    ours: Mapping[str, Any],
    found: Any,  # noqa: ANN401 — JSON
    at: Path,
) -> Iterator[Path]:
    for step, below in theirs.items():
        place = _place(step, found)
        if place is None:
            continue
        if step not in ours:
            yield from _leaves(below, found[place], (*at, place))
        elif below:
            yield from _extra(below, ours[step], found[place], (*at, place))


def _leaves(theirs: Mapping[str, Any], found: Any, at: Path) -> Iterator[Path]:  # noqa: ANN401 — JSON
    """Return what is theirs below a place of which nothing is ours.

    That is the place itself, unless something below it is tolerated.
    """
    if any(tolerated[: len(at)] == at for tolerated in _TOLERATED):
        for step, below in theirs.items():
            place = _place(step, found)
            if place is not None:
                yield from _leaves(below, found[place], (*at, place))
        if not any(step != "." for step in theirs):
            yield at
    else:
        yield at


def _place(step: str, found: Any) -> str | int | None:  # noqa: ANN401 — JSON
    """Return the key or index that a step of `fieldsV1` means; None when it is not there.

    See sigs.k8s.io/structured-merge-diff: `f:` a key, `k:` the item with these keys, `v:` the item
    that is this value, `i:` an index, `.` the place itself.
    """
    kind, _, rest = step.partition(":")
    if kind == "f":
        return rest if isinstance(found, Mapping) and rest in found else None
    if not _is_list(found) or kind not in {"k", "v", "i"}:
        return None
    if kind == "i":
        return int(rest) if int(rest) < len(found) else None
    sought = json.loads(rest)
    for index, item in enumerate(found):
        if item == sought if kind == "v" else _has_keys(item, sought):
            return index
    return None


def _has_keys(item: Any, keys: Mapping[str, Any]) -> bool:  # noqa: ANN401 — JSON
    return isinstance(item, Mapping) and all(item.get(key) == keys[key] for key in keys)


def is_wanted(path: Path, manifest: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    """Tell whether a manifest says something of the place that is at `path` in `found`."""
    wanted: Any = manifest
    there: Any = found
    for step in path:
        there = there[step]
        if isinstance(step, int):
            name = there.get("name") if isinstance(there, Mapping) else None
            items = wanted if _is_list(wanted) else ()
            named = (each for each in items if isinstance(each, Mapping) and name is not None)
            wanted = next((each for each in named if each.get("name") == name), None)
        else:
            wanted = wanted.get(step) if isinstance(wanted, Mapping) else None
        if wanted is None:
            return False
    return True


def removal(found: Mapping[str, Any], paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return the JSON Patch (RFC 6902) that removes the paths from exactly this version."""
    test = {
        "op": "test",
        "path": "/metadata/resourceVersion",
        "value": found["metadata"]["resourceVersion"],
    }
    # Of a list the last first, so that the other indices still hold.
    ordered = sorted(paths, key=lambda path: [_rank(step) for step in path], reverse=True)
    return [test, *({"op": "remove", "path": _pointer(path)} for path in ordered)]


def _rank(step: str | int) -> tuple[int, str]:
    return (step, "") if isinstance(step, int) else (-1, step)


def _pointer(path: Path) -> str:
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in path)
