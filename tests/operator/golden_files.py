"""What `desired` makes of each resource in `golden`, as a reviewer reads it.

Of `minimal` and `full` everything; of every other one what differs from `minimal`, so that one sees
what its fields do.

    python -m tests.operator.golden_files     write them anew
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

from mailrelay_operator.desired.children import desired
from mailrelay_operator.desired.manifest import Manifest
from tests.operator.relays import CASES, GOLDEN, case, inputs

_WHOLE = ("minimal", "full")


class _Dumper(yaml.SafeDumper):
    """Writes long texts as they are, and each value in full, where it stands."""

    def ignore_aliases(self, _data: object) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


_Dumper.add_representer(str, _text)


def path_of(name: str) -> Path:
    return GOLDEN / (f"{name}.yaml" if name in _WHOLE else f"{name}.diff")


def text_of(name: str) -> str:
    relay = case(name)
    scaled = 3 if relay.spec.sender.autoscaling is not None else None
    children = desired(relay, inputs(sender_replicas=scaled))
    if name in _WHOLE:
        return "---\n".join(map(_yaml, children))
    return "".join(_differences(desired(case("minimal"), inputs()), children))


def _differences(before: tuple[Manifest, ...], after: tuple[Manifest, ...]) -> Iterator[str]:
    old = {_title(each): _yaml(each) for each in before}
    new = {_title(each): _yaml(each) for each in after}
    for title in dict.fromkeys([*old, *new]):
        if title not in new:
            yield f"=== no {title}\n"
        elif title not in old:
            yield f"=== new {title}\n{new[title]}"
        elif old[title] != new[title]:
            lines = old[title].splitlines(keepends=True), new[title].splitlines(keepends=True)
            yield f"=== {title}\n"
            yield from list(difflib.unified_diff(*lines, n=2))[2:]


def _title(child: Manifest) -> str:
    name = child["metadata"]["name"]
    return f"{child['kind']} {name.rpartition('-')[0] if child['kind'] == 'Job' else name}"


def _yaml(child: Manifest) -> str:
    text: str = yaml.dump(child, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text


def main() -> int:
    for name in CASES:
        path, text = path_of(name), text_of(name)
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"wrote {path.name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
