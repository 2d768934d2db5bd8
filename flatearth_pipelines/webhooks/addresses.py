"""Where webhooks may go: what is looked at when a URL is saved, and again at the address that a socket connects to.

The URL is looked at so that whoever types one is told at once. What protects is `is_permitted`: it is asked about the
very address that is connected to, whatever a name has meant before.
"""

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

LONGEST_URL = 2_000
"""Characters."""

_Network = IPv4Network | IPv6Network

_PORTS = {"http": 80, "https": 443}
_HIGHEST_PORT = 65_535

_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\[\]:@]*)(?::([0-9]{1,5}))?")
_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label such as this makes `inet_aton` read the whole host as an address: 127.1, 0x7f000001, 017700000001."""

_LOOPBACK: tuple[_Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))

_REFUSED_V4 = tuple(
    map(
        IPv4Network,
        [
            "0.0.0.0/8",  # this network: RFC 791
            "10.0.0.0/8",  # private: RFC 1918
            "100.64.0.0/10",  # shared by the customers of a provider: RFC 6598
            "127.0.0.0/8",  # loopback: RFC 1122
            "168.63.129.16/32",  # not in the registry: Azure's metadata, in the middle of public addresses
            "169.254.0.0/16",  # link-local, and the metadata of most clouds: RFC 3927
            "172.16.0.0/12",  # private: RFC 1918
            "192.0.0.0/24",  # protocol assignments: RFC 6890
            "192.0.2.0/24",  # documentation: RFC 5737
            "192.31.196.0/24",  # AS112, where reverse look-ups end: RFC 7535
            "192.52.193.0/24",  # relays of multicast, AMT: RFC 7450
            "192.88.99.0/24",  # relays of 6to4: RFC 7526
            "192.168.0.0/16",  # private: RFC 1918
            "192.175.48.0/24",  # AS112: RFC 7534
            "198.18.0.0/15",  # benchmarks: RFC 2544
            "198.51.100.0/24",  # documentation: RFC 5737
            "203.0.113.0/24",  # documentation: RFC 5737
            "224.0.0.0/4",  # multicast: RFC 5771
            "240.0.0.0/4",  # reserved: RFC 1112; and broadcast: RFC 919
        ],
    )
)
"""All of IANA's registry of special-purpose addresses (RFC 6890), those that are globally reachable included: nobody
receives webhooks there."""

_UNICAST_V6 = IPv6Network("2000::/3")
"""Outside it lie `::`, loopback, mapped, NAT64 (64:ff9b::/96, 64:ff9b:1::/48), SIIT, 100::/64, 5f00::/16, unique local,
link-local and multicast addresses, and whatever has no purpose yet: RFC 4291."""

_REFUSED_V6 = tuple(
    map(
        IPv6Network,
        [
            "2000::/16",  # not allocated
            "2001::/23",  # protocol assignments, Teredo among them: RFC 2928, RFC 4380
            "2001:db8::/32",  # documentation: RFC 3849
            "2002::/16",  # 6to4, which carries an IPv4 address: RFC 3056
            "2620:4f:8000::/48",  # AS112: RFC 7534
            "2d00::/8",  # reserved
            "2e00::/7",  # reserved
            "3000::/4",  # reserved; documentation (3fff::/20: RFC 9637) and the 6bone that was (3ffe::/16: RFC 3701)
        ],
    )
)
"""Of IANA's registries of special-purpose addresses and of global unicast assignments."""


def refusal(url: str, allowed: Sequence[_Network] = ()) -> str | None:
    """Why webhooks may not be sent to the URL, as in "its port is ..."; None when they may, as far as can be seen.

    A host that is an address is judged as at connect time, one that is a name only then. No part of the URL is
    repeated: it may hold a password. Exactly 2,000 characters are not yet too long.
    """
    if said := _refusal_of_text(url):
        return said
    try:
        parts = urlsplit(url)
    except ValueError:
        return "it is not a URL"
    if parts.scheme not in _PORTS or not parts.netloc:
        return "it is not http:// or https:// and a host"
    if "@" in parts.netloc:
        return "it has a user or a password before its host"
    authority = _AUTHORITY.fullmatch(parts.netloc)
    if authority is None:
        return "its host or its port is not written as one"
    host, port = authority[1], int(authority[2] or _PORTS[parts.scheme])
    return _refusal_of_port(port, allowed) or _refusal_of_host(host, port, allowed)


def is_permitted(address: str, port: int, allowed: Sequence[_Network] = ()) -> bool:
    """Whether a socket may connect to the address, as `getaddrinfo` writes it; never to one with a scope (`%eth0`).

    In an `allowed` network to any port, elsewhere to 80 and 443 of a public unicast address. An IPv4-mapped address is
    the IPv4 address to `allowed`, and refused elsewhere, as all are that carry an IPv4 address in another way.
    """
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, IPv6Address) and ip.scope_id is not None:
        return False
    real = (isinstance(ip, IPv6Address) and ip.ipv4_mapped) or ip
    if any(real in network for network in allowed):
        return True
    return port in _PORTS.values() and _is_public(ip)


def _refusal_of_text(url: str) -> str | None:
    if len(url) > LONGEST_URL:
        return f"it has more than {LONGEST_URL:,} characters"
    if not url.isprintable() or " " in url or "\\" in url:
        return "it has a blank, a backslash or a character that cannot be seen"
    return "it has a fragment, which is never sent" if "#" in url else None


def _refusal_of_port(port: int, allowed: Sequence[_Network]) -> str | None:
    if not 0 < port <= _HIGHEST_PORT:
        return f"its port is not one of 1 to {_HIGHEST_PORT:,}"
    if not allowed and port not in _PORTS.values():
        return "its port is neither 80 nor 443"
    return None


def _refusal_of_host(host: str, port: int, allowed: Sequence[_Network]) -> str | None:
    if host.startswith("["):
        return _refusal_of_address(host[1:-1], IPv6Address, port, allowed)
    try:
        name = host.encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        name = ""
    last = name.rpartition(".")[2]
    if _NUMBER.fullmatch(last):
        return _refusal_of_address(host, IPv4Address, port, allowed)
    if not _NAME.fullmatch(name):
        return "its host is neither a name nor an address"
    if last == "localhost" and not any(own.overlaps(loopback) for own in allowed for loopback in _LOOPBACK):
        return "its host is this machine"
    return None


def _refusal_of_address(
    text: str, family: type[IPv4Address | IPv6Address], port: int, allowed: Sequence[_Network]
) -> str | None:
    try:
        address = family(text.replace("%", "?"))  # no scope
    except ValueError:
        return "its host is an address that is not written as four decimal numbers, or as IPv6 in brackets"
    if is_permitted(str(address), port, allowed):
        return None
    if _is_public(address):
        return "its port is neither 80 nor 443"
    return "its host is a private or reserved address"


def _is_public(ip: IPv4Address | IPv6Address) -> bool:
    if isinstance(ip, IPv4Address):
        return not any(ip in network for network in _REFUSED_V4)
    return ip in _UNICAST_V6 and not any(ip in network for network in _REFUSED_V6)
