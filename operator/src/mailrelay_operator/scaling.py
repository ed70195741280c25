"""How many senders each relay shall have, and what its monitor says: kept between passes."""

from __future__ import annotations

from typing import Final

from mailrelay.runtime.clock import Clock
from mailrelay_operator.autoscale import History, Policy, decide
from mailrelay_operator.backlog import OFTEN_SECONDS, RARELY_SECONDS, Backlogs, Numbers, Question
from mailrelay_operator.child import RelayKey
from mailrelay_operator.conditions import Workload
from mailrelay_operator.desired.names import ChildNames, Component
from mailrelay_operator.known import Known
from mailrelay_operator.resource import paths
from mailrelay_operator.resource.relay import Relay
from mailrelay_operator.secrets_of import SecretReader

# Numbers older than this are as good as none.
_STALE_SECONDS: Final = 45.0


class Scaling:
    """Decides, and has the monitors asked."""

    def __init__(
        self,
        known: Known,
        backlogs: Backlogs,
        reader: SecretReader,
        *,
        monitor_url: str,
        clock: Clock,
    ) -> None:
        """`monitor_url` has `{namespace}` and `{name}` in it."""
        self._known = known
        self._backlogs = backlogs
        self._reader = reader
        self._monitor_url = monitor_url
        self._clock = clock
        self._history: dict[RelayKey, History] = {}
        self._tokens: dict[RelayKey, tuple[str, str]] = {}  # with the version of its Secret

    def numbers(self, key: RelayKey) -> Numbers | None:
        """Return what the relay's monitor said last."""
        return self._backlogs.numbers(key)

    def forget(self, key: RelayKey) -> None:
        """Take note that a relay is gone."""
        self._history.pop(key, None)
        self._tokens.pop(key, None)
        self._backlogs.follow(key, None)

    def replicas(self, key: RelayKey, relay: Relay) -> int | None:
        """Return how many senders there shall be; None when the spec itself says it."""
        wanted = relay.spec.sender
        current = self._current(key, relay)
        if wanted.autoscaling is None:
            self._history.pop(key, None)
            # Where somebody else scales, what is there is repeated: a field that is no longer
            # applied would go back to 1.
            return current if wanted.scaled_externally else None
        scaling = wanted.autoscaling
        policy = Policy(
            scaling.min_replicas,
            scaling.max_replicas,
            scaling.ready_per_replica,
            scaling.scale_down_seconds,
        )
        if current is None:
            # Nothing runs yet, so nothing is known either.
            return max(1, policy.least)
        now = self._clock()
        numbers = self._backlogs.numbers(key)
        is_fresh = numbers is not None and now - numbers.at <= _STALE_SECONDS
        decision = decide(
            policy,
            numbers.ready if numbers is not None and is_fresh else None,
            current,
            self._history.get(key, History()),
            now,
        )
        self._history[key] = decision.history
        return decision.replicas

    async def follow(
        self, key: RelayKey, relay: Relay | None, *, is_running: bool, is_calm: bool
    ) -> None:
        """Have the relay's monitor asked, as often as is needed. Raises ClusterError.

        `is_calm` says that the queue's servers run as they should; they may have lost something
        just before, so a change of it has the monitor asked at once.
        """
        if relay is None or not is_running:
            return  # what was asked before goes on
        numbers = self._backlogs.numbers(key)
        # A monitor that does not answer at all may not do so for long: a policy is in the way, say.
        is_well = numbers is None or not (numbers.is_unavailable or numbers.missing)
        scales = relay.spec.sender.autoscaling is not None and not relay.spec.paused
        often = scales or not (is_calm and is_well)
        self._backlogs.follow(
            key,
            Question(
                self._monitor_url.format(namespace=relay.namespace, name=relay.name),
                await self._token(key, relay),
                OFTEN_SECONDS if often else RARELY_SECONDS,
            ),
        )

    async def _token(self, key: RelayKey, relay: Relay) -> str:
        own = self._known.own_secrets(key).get(relay.token_secret)
        if own is not None:
            return own.data.get(paths.TOKEN_KEY, b"").decode("ascii", "ignore").strip()
        place = (relay.namespace, relay.token_secret)
        version = self._known.secret_version(place)
        before = self._tokens.get(key)
        if before is None or before[0] != version:
            before = (version, await self._reader.token(place, paths.TOKEN_KEY))
            self._tokens[key] = before
        return before[1]

    def _current(self, key: RelayKey, relay: Relay) -> int | None:
        name = ChildNames(relay.name).of(Component.SENDER)
        child = self._known.children(key).get(("Deployment", name))
        if child is None or not isinstance(child.observed, Workload):
            return None
        return child.observed.wanted
