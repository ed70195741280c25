"""`mailrelay prepare`: what a relay in several containers needs before its first start, made once.

    FOLDER/nats/nats.conf        nats-server's configuration, each role with its own rights
    FOLDER/admin/seed            for `mailrelay queue ensure`
    FOLDER/ingress/seed, users, smtp-password
    FOLDER/sender/seed
    FOLDER/monitor/seed, http-token

Each folder below FOLDER is to be a volume of its own, so that no role can read another's key. Keys,
users and token that are there stay; the configuration is written anew, because a newer version may
ask for other rights. docker-compose.split.yml is how it is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mailrelay.config.model import RelayConfig
from mailrelay.queue.nkey import new_seed, public_key_of
from mailrelay.queue.rights import Role
from mailrelay.queue.server_config import MINIMUM_STORE_BYTES
from mailrelay.runtime.lifecycle import EXIT_OK
from mailrelay_cli.checked_config import checked_config
from mailrelay_cli.console import say
from mailrelay_cli.data_folder import write_private
from mailrelay_cli.errors import BadInputError
from mailrelay_cli.first_secrets import USER, ensure_token, ensure_user
from mailrelay_cli.nats_config import NatsServerPlan, server_config_text

_NATS_PORT = 4222
_NEEDED = "nats"
_ROLES = {
    Role.ADMIN: "admin",
    Role.INGRESS: "ingress",
    Role.SENDER: "sender",
    Role.MONITOR: "monitor",
    Role.WATCH: "admin",  # nobody watches there yet: its key lies with who may do most
}


@dataclass(frozen=True, slots=True)
class PrepareOptions:
    """What the command line says."""

    folder: Path
    store_dir: Path  # in nats-server's container
    config_file: Path | None


def prepare(options: PrepareOptions) -> int:
    """Make what is missing; the exit code. Raises BadInputError."""
    config = checked_config(options.config_file)
    size = needed_store_bytes(config)
    folder = options.folder.absolute()
    try:
        public_keys = {role: _key(folder / name, role) for role, name in _ROLES.items()}
        plan = NatsServerPlan(
            port=_NATS_PORT,
            prefix=config.queue.prefix,
            store_bytes=size,
            reserved_bytes=0,
            public_keys=public_keys,
            host="0.0.0.0",  # noqa: S104 — in a network that only the relay's containers are in
            logs_to_file=False,
        )
        nats = folder / _NEEDED
        nats.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(nats / "nats.conf", server_config_text(plan, options.store_dir))
    except OSError as error:
        raise BadInputError(f"--folder: {error.filename or folder}: {error.strerror}") from error
    password_file = ensure_user(folder / "ingress" / "users")
    token_file = folder / "monitor" / "http-token"
    ensure_token(token_file)
    say(
        f"prepared for nats-server with {size} bytes",
        f"user {USER}, its password in {password_file}",
        f"token for HTTP in {token_file}",
    )
    return EXIT_OK


def needed_store_bytes(config: RelayConfig) -> int:
    """Return `queue.storeBytes`, which has no default where NATS is not ours to measure.

    Raises BadInputError.
    """
    size = config.queue.store_bytes
    if size < MINIMUM_STORE_BYTES:
        raise BadInputError(
            f"queue.storeBytes: must say what the queue may use on nats-server's disk, at least "
            f"{MINIMUM_STORE_BYTES} bytes, is {size}: set it in the file or by QUEUE_STORE_BYTES"
        )
    return size


def _key(folder: Path, role: Role) -> str:
    """Return the public key of a role, whose seed is made when there is none. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / ("watch-seed" if role is Role.WATCH else "seed")
    if not path.exists():
        write_private(path, new_seed() + "\n")
    try:
        return public_key_of(path.read_text(encoding="ascii").strip())
    except ValueError as error:
        raise BadInputError(f"{path} holds no NKey seed: remove it to have a new one") from error
