"""Addresses of the internet that a picture may be fetched from: public ones, however they are written.

An address of IPv6 that stands for one of IPv4 (mapped, NAT64) is no better than that; tunnels (6to4, Teredo) are none.
"""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# what resolvers of networks without IPv4 put before its addresses (RFC 6052)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
# Python's own lists grew over its versions: what some of them call public
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24", "198.18.0.0/15",
            "224.0.0.0/4", "240.0.0.0/4", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32",
            "2002::/16", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
        ),
    )
)  # fmt: skip
_METADATA = tuple(map(ipaddress.ip_address, ("169.254.169.254", "fd00:ec2::254", "100.100.100.200")))


def written(text: str) -> Address | None:
    """Return the address that a text writes out, one of IPv6 without brackets; None for names and anything else."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether an address, or the one that it stands for, belongs to the public internet."""
    meant = _meant(address)
    inside = any(meant in network for network in _NEVER if network.version == meant.version)
    return meant.is_global and not meant.is_multicast and not inside


def may_be_named(address: Address) -> bool:
    """Whether an address may be allowed by naming it: not the metadata of a cloud, nor one that no single host has."""
    meant = _meant(address)
    return not (meant in _METADATA or meant.is_link_local or meant.is_multicast or meant.is_unspecified)


def _meant(address: Address) -> Address:
    """Return the address of IPv4 that one of IPv6 stands for; itself where it stands for none."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address
