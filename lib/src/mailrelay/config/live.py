"""Take a changed configuration over while the process runs (docs/decisions/0020).

A process's parts say which options they follow. When the file has changed, or by SIGHUP, it is read
again: all parts that are concerned prepare, and only when none of them finds a fault do they take
the new values, together. On a fault the old configuration stays in force as a whole, and `fault`
says why. What can only change by a restart is named and left as it was.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from mailrelay.config.load import ConfigError, Option, options
from mailrelay.config.model import RelayConfig
from mailrelay.config.words import shown
from mailrelay.runtime.logging import Logger
from mailrelay.runtime.watch import watch_files

# Looks at new values and returns what takes them; raises ConfigError when they cannot be used.
Prepare = Callable[[RelayConfig], Callable[[], None]]
_Model = TypeVar("_Model", bound=BaseModel)


def _no_files(_: RelayConfig) -> Iterable[Path | None]:
    return ()


@dataclass(frozen=True, slots=True)
class _Part:
    keys: tuple[str, ...]
    prepare: Prepare
    files: Callable[[RelayConfig], Iterable[Path | None]]

    def follows(self, option: Option) -> bool:
        return any(option.key == key or option.key.startswith(f"{key}.") for key in self.keys)


class LiveConfig:
    """One process's configuration in force."""

    def __init__(
        self,
        config: RelayConfig,
        read: Callable[[], RelayConfig],
        *,
        file: Path | None,
        log: Logger,
        tells_restarts: bool = False,
        quiet: bool = False,
    ) -> None:
        """`read` loads anew; `tells_restarts` for one process of a relay, not for each.

        `quiet` for a supervisor: its services follow the same file, and say so themselves.
        """
        self.config = config
        self._read = read
        self._file = file
        self._log = log
        self._tells_restarts = tells_restarts
        self._quiet = quiet
        self._parts: list[_Part] = []
        self._fault = ""
        self.fault_since = 0.0  # seconds since the epoch; of the fault that there is
        self._file_faults: dict[_Part, str] = {}
        self._waiting: dict[str, object] = {}  # by key: values that a restart would bring
        self._on_fault: list[Callable[[], None]] = []

    @property
    def fault(self) -> str:
        """Why the files as they are now are not in force; empty when they are."""
        return "; ".join(dict.fromkeys(filter(None, (self._fault, *self._file_faults.values()))))

    def prepares(
        self,
        prepare: Prepare,
        *keys: str,
        files: Callable[[RelayConfig], Iterable[Path | None]] = _no_files,
    ) -> None:
        """Have a part follow options, or whole sections.

        It also prepares anew when one of its `files` changes.
        """
        self._parts.append(_Part(keys, prepare, files))

    def uses(self, use: Callable[[RelayConfig], None], *keys: str) -> None:
        """Have a part follow options that it can always take."""
        self.prepares(lambda config: partial(use, config), *keys)

    def on_fault_change(self, callback: Callable[[], None]) -> None:
        """Have `callback` called when `fault` is another than before."""
        self._on_fault.append(callback)

    async def run(self) -> None:
        """Follow the file, and the parts' files, until cancelled."""
        watches = [
            asyncio.ensure_future(watch_files(self._files, self._file_changed)),
            *(
                asyncio.ensure_future(
                    watch_files(partial(self._files_of, part), partial(self._refresh, part))
                )
                for part in self._parts
                if part.files is not _no_files
            ),
        ]
        await asyncio.sleep(0)  # they have looked: what changes from here on is seen
        self.reload()  # and what changed since the process read it, too
        try:
            await asyncio.gather(*watches)
        finally:
            for watch in watches:
                watch.cancel()

    def reload(self) -> None:
        """Read the configuration again and take over what can be."""
        before = self.fault
        try:
            found = self._read()
            changed = [
                option
                for option in options()
                if option.value_in(found) != option.value_in(self.config)
            ]
            live = [option for option in changed if option.is_reloadable]
            new = _merged(self.config, found, live)
            concerned = [part for part in self._parts if any(map(part.follows, live))]
            takes = [part.prepare(new) for part in concerned]
        except ConfigError as error:
            self._fault = "; ".join(error.faults)
            self._tell_fault(before)
            return
        old, self.config = self.config, new
        for take in takes:
            take()
        self._fault = ""
        for part in concerned:
            self._file_faults.pop(part, None)
        self._tell_fault(before)
        for option in live:
            if not self._quiet and any(part.follows(option) for part in self._parts):
                self._log.info("config.changed", **_change(option, old, new))
        self._tell_restarts([option for option in changed if not option.is_reloadable], found)

    async def _file_changed(self) -> None:
        self.reload()

    async def _refresh(self, part: _Part) -> None:
        """Let a part look at its files again."""
        before = self.fault
        try:
            part.prepare(self.config)()
        except ConfigError as error:
            self._file_faults[part] = "; ".join(error.faults)
        else:
            self._file_faults.pop(part, None)
            self._log.info("config.file_changed", keys=part.keys)
        self._tell_fault(before)
        if self._fault:
            self.reload()  # the new configuration may have waited for this file

    def _files(self) -> list[Path]:
        return [self._file] if self._file is not None else []

    def _files_of(self, part: _Part) -> list[Path]:
        return [path for path in part.files(self.config) if path is not None]

    def _tell_fault(self, before: str) -> None:
        if self.fault == before:
            return
        if not before:
            self.fault_since = time.time()
        if self._quiet:
            pass
        elif self.fault:
            self._log.error(
                "config.refused", reason=self.fault, meaning="the old values stay in force"
            )
        else:
            self._log.info("config.mended")
        for callback in self._on_fault:
            callback()

    def _tell_restarts(self, changed: list[Option], found: RelayConfig) -> None:
        waiting = {option.key: option.value_in(found) for option in changed}
        if self._tells_restarts:
            for option in changed:
                if self._waiting.get(option.key, self) != waiting[option.key]:
                    self._log.warning(
                        "config.needs_restart",
                        **_change(option, self.config, found),
                        meaning="the old value stays in force until the relay is restarted",
                    )
        self._waiting = waiting


def _change(option: Option, old: RelayConfig, new: RelayConfig) -> dict[str, Any]:
    if option.is_secret or option.is_sections:  # too much for a line
        return {"key": option.key}
    return {
        "key": option.key,
        "old": shown(option.value_in(old)),
        "new": shown(option.value_in(new)),
    }


def _merged(old: RelayConfig, new: RelayConfig, take: list[Option]) -> RelayConfig:
    """Return `old` with the values of some options taken from `new`."""
    for option in take:
        old = _replaced(old, option.path, option.value_in(new))
    return old


def _replaced(node: _Model, path: tuple[str, ...], value: object) -> _Model:
    fields = type(node).model_fields
    name = next(name for name, field in fields.items() if field.alias == path[0])
    inner = _replaced(getattr(node, name), path[1:], value) if path[1:] else value
    return node.model_copy(update={name: inner})
