"""Networks by CIDR, and whether an address is in one of them.

An IPv4 address that comes mapped into IPv6 (`::ffff:192.0.2.1`, as sockets that serve both
families show it) is the IPv4 address, in networks and in addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAPPED_BITS = 96  # of `::ffff:0:0/96` (RFC 4291 section 2.5.5.2)


def parse_network(text: str) -> Network:
    """Read one network, or one address as a network of itself.

    Raises ValueError, whose words say what was found and what is allowed.
    """
    try:
        network: Network = ipaddress.ip_network(text.strip())
    except ValueError:
        raise ValueError(f"{text!r} is no network: {_hint(text)}") from None
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen >= _MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ipaddress.ip_network(f"{mapped}/{network.prefixlen - _MAPPED_BITS}")
    return network


def parse_address(text: str) -> Address | None:
    """Read a peer's address, without its scope; None when it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def is_loopback(text: str) -> bool:
    """Tell whether a peer's address is this machine's loopback."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def is_in(text: str, networks: Iterable[Network]) -> bool:
    """Tell whether a peer's address lies in one of the networks."""
    address = parse_address(text)
    return address is not None and any(address in network for network in networks)


def _hint(text: str) -> str:
    try:
        whole = ipaddress.ip_network(text.strip(), strict=False)
    except ValueError:
        return "write 192.0.2.0/24, 2001:db8::/32 or an address"
    return f"bits are set behind its prefix; the network is {whole}"
