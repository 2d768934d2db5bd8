"""Where webhooks may go. The tables stand here once more, as IANA publishes them and not as the rule does."""

import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import pytest
import yarl
from hypothesis import example, given
from hypothesis import strategies as st

from flatearth_pipelines.webhooks.addresses import LONGEST_URL, is_permitted, refusal

SPECIAL_V4 = [
    "0.0.0.0/8",
    "0.0.0.0/32",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.0.0/29",
    "192.0.0.8/32",
    "192.0.0.9/32",
    "192.0.0.10/32",
    "192.0.0.170/32",
    "192.0.0.171/32",
    "192.0.2.0/24",
    "192.31.196.0/24",
    "192.52.193.0/24",
    "192.88.99.0/24",
    "192.88.99.2/32",
    "192.168.0.0/16",
    "192.175.48.0/24",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
    "255.255.255.255/32",
]
"""IANA IPv4 Special-Purpose Address Registry."""

MORE_V4 = ["224.0.0.0/4", "168.63.129.16/32", "169.254.169.254/32", "169.254.170.2/32", "100.100.100.200/32"]
"""Multicast, and where clouds tell a machine its credentials."""

SPECIAL_V6 = [
    "::1/128",
    "::/128",
    "::ffff:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "100:0:0:1::/64",
    "2001::/23",
    "2001::/32",
    "2001:1::1/128",
    "2001:1::2/128",
    "2001:1::3/128",
    "2001:2::/48",
    "2001:3::/32",
    "2001:4:112::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:30::/28",
    "2001:db8::/32",
    "2002::/16",
    "2620:4f:8000::/48",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
]
"""IANA IPv6 Special-Purpose Address Registry."""

MORE_V6 = [
    "::/96",  # IPv4-compatible
    "::ffff:0:0:0/96",  # SIIT
    "200::/7",
    "400::/6",
    "1000::/4",
    "2000::/16",
    "2d00::/8",
    "2e00::/7",
    "3000::/4",
    "3ffe::/16",
    "4000::/3",
    "6000::/3",
    "8000::/3",
    "a000::/3",
    "c000::/3",
    "e000::/4",
    "f000::/5",
    "f800::/6",
    "fd00:ec2::254/128",
    "fe00::/9",
    "fec0::/10",
    "ff00::/8",
]
"""Multicast, site-local, metadata, and what is reserved or not allocated."""

PUBLIC = [
    "8.8.8.8",
    "1.1.1.1",
    "93.184.216.34",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "2a00:1450:4001:80b::200e",
    "2400:cb00:2048:1::c629:d7a2",
    "2800:3f0:4001:80b::200e",
    "2c0f:fb50:4002:801::200e",
]

NEIGHBOURS = [
    *("1.0.0.0", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"),
    *("168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0"),
    *("191.255.255.255", "192.0.1.0", "192.0.1.255", "192.0.3.0", "192.31.195.255", "192.31.197.0"),
    *("192.52.192.255", "192.52.194.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"),
    *("192.175.47.255", "192.175.49.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0"),
    *("203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2001:200::", "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db9::", "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    *("2003::", "2620:4f:7fff:ffff:ffff:ffff:ffff:ffff", "2620:4f:8001::", "2cff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
]
"""The addresses just below and above those ranges, as far as they are public."""

OTHER_PORTS = [0, 1, 22, 25, 79, 81, 442, 444, 5432, 6379, 8000, 8080, 8443, 65535]

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]


# At connect time


@pytest.mark.parametrize("address", PUBLIC + NEIGHBOURS)
@pytest.mark.parametrize("port", [80, 443])
def test_a_public_address_may_be_reached_to_the_last_one_beside_a_special_range(address: str, port: int) -> None:
    assert is_permitted(address, port)


@pytest.mark.parametrize("network", SPECIAL_V4 + MORE_V4 + SPECIAL_V6 + MORE_V6)
def test_no_special_range_may_be_reached_from_its_first_to_its_last_address(network: str) -> None:
    inside = ip_network(network)
    middle = inside[inside.num_addresses // 2]
    assert not [ip for ip in (inside[0], middle, inside[-1]) if is_permitted(str(ip), 443) or is_permitted(str(ip), 80)]


def _carriers(address: IPv4Address) -> dict[str, IPv6Address]:
    """Every way in which an IPv6 address carries an IPv4 address."""
    v4 = int(address)
    return {
        "mapped": IPv6Address(int(IPv6Address("::ffff:0:0")) | v4),
        "compatible": IPv6Address(v4),
        "SIIT": IPv6Address(int(IPv6Address("::ffff:0:0:0")) | v4),
        "NAT64": IPv6Address(int(IPv6Address("64:ff9b::")) | v4),
        "local NAT64": IPv6Address(int(IPv6Address("64:ff9b:1::")) | v4),
        "local NAT64 of /48": IPv6Address(int(IPv6Address("64:ff9b:1::")) | v4 >> 16 << 64 | (v4 & 0xFFFF) << 40),
        "6to4": IPv6Address(0x2002 << 112 | v4 << 80 | 1),
        "Teredo server": IPv6Address(0x20010000 << 96 | v4 << 64 | 0xF7F7F7F7),
        "Teredo client": IPv6Address(0x20010000 << 96 | int(IPv4Address("8.8.8.8")) << 64 | v4 ^ 0xFFFFFFFF),
    }


def test_the_carriers_carry_the_address_as_the_standard_library_reads_them() -> None:
    address = IPv4Address("169.254.169.254")
    carriers = _carriers(address)
    assert carriers["mapped"].ipv4_mapped == address
    assert carriers["6to4"].sixtofour == address
    assert carriers["Teredo server"].teredo == (address, IPv4Address("8.8.8.8"))
    assert carriers["Teredo client"].teredo == (IPv4Address("8.8.8.8"), address)
    assert carriers["NAT64"] == IPv6Address("64:ff9b::169.254.169.254")
    assert carriers["compatible"] == IPv6Address("::169.254.169.254")
    assert carriers["SIIT"] == IPv6Address("::ffff:0:169.254.169.254")


@pytest.mark.parametrize("network", SPECIAL_V4 + MORE_V4)
def test_no_special_ipv4_address_may_be_reached_by_an_ipv6_address_that_carries_it(network: str) -> None:
    inside = IPv4Network(network)
    carriers = [each for ip in (inside[0], inside[-1]) for each in _carriers(ip).values()]
    assert not [str(each) for each in carriers if is_permitted(str(each), 443)]
    assert not [str(each) for each in carriers if refusal(f"https://[{each}]/") is None]


def test_carriers_of_a_public_address_are_refused_too() -> None:
    """Where a NAT64 or a relay leads is somebody else's choice."""
    carriers = _carriers(IPv4Address("8.8.8.8"))
    assert not {name for name, each in carriers.items() if is_permitted(str(each), 443)}


@pytest.mark.parametrize("address", PUBLIC)
@pytest.mark.parametrize("port", OTHER_PORTS)
def test_a_public_address_may_be_reached_on_80_and_443_only(address: str, port: int) -> None:
    assert not is_permitted(address, port)
    assert not is_permitted(address, port, LOOPBACK)


@pytest.mark.parametrize("address", ["fe80::1%eth0", "fe80::1%1", "2a00::1%eth0", "::1%lo", "2a00::1%"])
def test_an_address_with_a_scope_is_refused_also_where_its_network_is_allowed(address: str) -> None:
    assert not is_permitted(address, 443)
    assert not is_permitted(address, 443, [ip_network("::/0")])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "8.8.8",
        "08.8.8.8",
        "8.8.8.8 ",
        "8.8.8.8/32",
        "134744072",
        "[2a00::1]",
        "8.8.8.8\0",
        "٨.8.8.8",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    assert not is_permitted(text, 443)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("10.1.0.0", True),
        ("10.1.255.255", True),
        ("::ffff:10.1.0.0", True),
        ("::ffff:a01:ffff", True),
        ("fd00:1::", True),
        ("fd00:1::ffff:ffff:ffff:ffff", True),
        ("10.0.255.255", False),
        ("10.2.0.0", False),
        ("::ffff:10.2.0.0", False),
        ("fd00:0:ffff:ffff:ffff:ffff:ffff:ffff", False),
        ("fd00:1:0:1::", False),
        ("127.0.0.1", False),
        ("::1", False),
        ("64:ff9b::10.1.0.0", False),
        ("::10.1.0.0", False),
        ("2002:a01::", False),
    ],
)
@pytest.mark.parametrize("port", [80, 443, 8080, 1, 65535])
def test_an_allowed_network_may_be_reached_on_any_port_from_its_first_to_its_last_address(
    address: str, port: int, *, allowed: bool
) -> None:
    networks = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/64")]
    assert is_permitted(address, port, networks) is allowed


@given(
    st.one_of(st.ip_addresses(), st.ip_addresses(network="2000::/3"), st.ip_addresses(network="192.0.0.0/8")),
    st.sampled_from([80, 443]),
)
def test_whatever_may_be_reached_is_globally_reachable_to_the_standard_library_too_and_not_multicast(
    ip: IPv4Address | IPv6Address, port: int
) -> None:
    if is_permitted(str(ip), port):
        assert ip.is_global
        assert not ip.is_multicast
        assert not ip.is_reserved


@given(st.ip_addresses(v=4).filter(lambda ip: ip.is_global and not ip.is_multicast))
@example(IPv4Address("192.0.0.9"))
@example(IPv4Address("168.63.129.16"))
def test_an_ipv4_address_outside_the_tables_may_be_reached(ip: IPv4Address) -> None:
    special = any(ip in IPv4Network(network) for network in SPECIAL_V4 + MORE_V4)
    assert is_permitted(str(ip), 443) is not special


# When it is saved


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com",
        "http://example.com",
        "HTTPS://EXAMPLE.COM/Path",
        "https://example.com:443/path?query=1&other=%20",
        "http://example.com:80/",
        "https://example.com:80/",
        "https://example.com:0443/",
        "https://a-b.example.com./hook",
        "https://a_b.example.com/",
        "https://intranet/",
        "https://localhost.example.com/",
        "https://127.0.0.1.nip.io/",
        "https://1e100.net/",
        "https://0x7f.example/",
        "https://bücher.example/straße?ü=1",
        "https://xn--bcher-kva.example/",
        "https://例え.テスト/",
        "https://hooks.example/a@b:c",
        "https://8.8.8.8/",
        "https://[2606:4700:4700::1111]:443/",
        "https://[2606:4700:4700:0:0:0:0:1111]/",
    ],
)
def test_a_url_with_a_public_host_is_taken(url: str) -> None:
    assert refusal(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.com",
        "//example.com/",
        "/path",
        "https:",
        "https:/example.com",
        "https:///path",
        "https://",
        "https://?a",
        "ftp://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "javascript:alert(1)",
        "ws://example.com/",
        "httpss://example.com/",
        "http+unix://%2Frun%2Fdocker.sock/",
    ],
)
def test_only_http_and_https_with_a_host_are_taken(url: str) -> None:
    assert refusal(url) == "it is not http:// or https:// and a host"


@pytest.mark.parametrize(
    "url",
    [
        "https://ada@example.com/",
        "https://ada:hunter2@example.com/",
        "https://:hunter2@example.com/",
        "https://@example.com/",
        "https://example.com@127.0.0.1/",
        "https://example.com:443@127.0.0.1/",
        "https://ada%40example.com@8.8.8.8/",
    ],
)
def test_a_user_or_a_password_is_refused(url: str) -> None:
    assert refusal(url) == "it has a user or a password before its host"


@pytest.mark.parametrize(
    "url", ["https://example.com/#a", "https://example.com#", "https://example.com/?a#b", "https://#"]
)
def test_a_fragment_is_refused(url: str) -> None:
    assert refusal(url) == "it has a fragment, which is never sent"


@pytest.mark.parametrize(
    "sign", [*" \t\r\n\0\x0b\x7f\x85\\", "\xa0", "\xad", "\u200b", "\u2028", "\u202e", "\ufeff", "\ud800"]
)
@pytest.mark.parametrize(
    "url", ["https://exam{}ple.com/", "{}https://example.com/", "https://example.com/{}", "ht{}tps://a/"]
)
def test_blanks_backslashes_and_what_cannot_be_seen_are_refused_anywhere(url: str, sign: str) -> None:
    assert refusal(url.format(sign)) == "it has a blank, a backslash or a character that cannot be seen"


@pytest.mark.parametrize("port", [port for port in OTHER_PORTS if port])
def test_any_other_port_is_refused_unless_networks_are_allowed(port: int) -> None:
    assert refusal(f"https://example.com:{port}/") == "its port is neither 80 nor 443"
    assert refusal(f"https://example.com:{port}/", LOOPBACK) is None, "the address that it has decides"


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_outside_its_range_is_refused_always(port: str) -> None:
    assert refusal(f"https://example.com:{port}/", LOOPBACK) == "its port is not one of 1 to 65,535"


@pytest.mark.parametrize("authority", ["a:", "a:x", "a:-1", "a:+80", "a:8_0", "a:443:443", "a:٨٠", "a:000443", "[::1"])
def test_what_is_no_port_or_no_host_is_refused(authority: str) -> None:
    assert refusal(f"https://{authority}/", LOOPBACK) is not None


@pytest.mark.parametrize(
    "host",
    [
        "a..b",
        ".a",
        "a..",
        "-a.example",
        "a-.example",
        f"{'a' * 64}.example",
        ".".join(["a" * 61] * 4) + ".abcdefg",
        "ex%61mple.com",
        "a,b",
        "a;b",
        "$a",
        "*.example.com",
        "a!b",
        "<a>",
        "..",
        "[example.com]",
        "[v1.a]",
    ],
)
def test_what_is_no_name_is_refused(host: str) -> None:
    assert refusal(f"https://{host}/", LOOPBACK) is not None


def test_a_label_of_63_characters_and_a_name_of_253_are_not_yet_too_long() -> None:
    name = ".".join(["a" * 61] * 4) + ".abcde"
    assert len(name) == 253
    assert refusal(f"https://{'a' * 63}.{name[:100]}/") is None
    assert refusal(f"https://{name}/") is None
    assert refusal(f"https://{name}f/") is not None


def test_a_url_of_2000_characters_is_not_yet_too_long() -> None:
    url = "https://example.com/".ljust(LONGEST_URL, "a")
    assert LONGEST_URL == 2_000
    assert refusal(url) is None
    assert refusal(url + "a") == "it has more than 2,000 characters"


@pytest.mark.parametrize("network", SPECIAL_V4 + MORE_V4 + SPECIAL_V6 + MORE_V6)
@pytest.mark.parametrize("place", [0, -1])
def test_a_special_address_is_refused_when_it_is_typed(network: str, place: int) -> None:
    assert refusal(f"https://{_host(ip_network(network)[place])}/") == "its host is a private or reserved address"


@pytest.mark.parametrize("address", PUBLIC + NEIGHBOURS)
def test_a_public_address_is_taken_when_it_is_typed_but_not_with_another_port(address: str) -> None:
    host = _host(ip_address(address))
    assert refusal(f"https://{host}/") is None
    assert refusal(f"https://{host}:8080/") == "its port is neither 80 nor 443"
    assert refusal(f"https://{host}:8080/", LOOPBACK) == "its port is neither 80 nor 443"
    assert refusal(f"https://{host}:8080/", [ip_network(address)]) is None


def _spellings(address: IPv4Address) -> list[str]:
    """What `inet_aton`, and with it many programs, takes for the address."""
    a, b, c, d = address.packed
    number = int(address)
    return [
        str(number),
        f"0x{number:x}",
        f"0X{number:08X}",
        f"0{number:o}",
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{number & 0xFFFF}",
        f"0x{a:x}.{b}.{c}.{d}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"0{a:o}.{b}.{c}.{d}",
        f"{a}.{b}.{c}.0{d:o}",
        f"0x{a:x}.0x{number & 0xFFFFFF:x}",
        f"00{a:o}.{b}.{c}.{d}",
    ]


@pytest.mark.parametrize("network", [*SPECIAL_V4, *MORE_V4, "8.8.8.8/32"])
def test_numbers_octals_and_short_forms_are_refused_whatever_address_they_are(network: str) -> None:
    address = IPv4Network(network)[-1]
    for spelling in _spellings(address):
        assert socket.inet_aton(spelling) == address.packed, "it is that address"
        assert "four decimal numbers" in (refusal(f"https://{spelling}/") or ""), spelling
        assert refusal(f"https://{spelling}/", [ip_network("0.0.0.0/0")]), spelling


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1.",
        "8.8.8.8.",
        "127.1.",
        "127..1",
        "127.0.0.1..",
        "0",
        "0x",
        "1.2.3.4.5",
        "256.1.1.1",
        "8.8.8.8.0x8",
        "example.1",
        "example.0xf",
        "\uff11\uff12\uff17.0.0.1",
        "\uff18.8.8.8",
        "①②⑦.0.0.1",
        "127。0。0。1",
        "127.0.0.1%25lo",
        "[::1%25lo]",
        "[fe80::1%25eth0]",
        "[2a00::1%eth0]",
        "[127.0.0.1]",
        "[]",
    ],
)
def test_what_only_looks_like_an_address_is_refused(host: str) -> None:
    assert refusal(f"https://{host}/") is not None
    assert refusal(f"https://{host}/", [ip_network("0.0.0.0/0"), ip_network("::/0")]) is not None


@pytest.mark.parametrize("host", ["[2a00::1%eth0]", "[2a00::1%25eth0]", "[fe80::1%1]"])
def test_an_address_with_a_scope_is_not_written_as_one(host: str) -> None:
    assert "not written as four decimal numbers, or as IPv6" in (refusal(f"https://{host}/") or "")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "localhost.", "a.localhost", "a.b.localhost.", "\uff4cocalhost"]
)
def test_localhost_is_refused_unless_loopback_is_allowed(host: str) -> None:
    assert refusal(f"http://{host}/") == "its host is this machine"
    assert refusal(f"http://{host}/", [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]) == "its host is this machine"
    for network in ("127.0.0.0/8", "127.0.0.1/32", "::1/128", "0.0.0.0/0"):
        assert refusal(f"http://{host}:8080/", [ip_network(network)]) is None


def test_an_allowed_address_is_taken_on_any_port() -> None:
    assert refusal("http://127.0.0.1:8080/", LOOPBACK) is None
    assert refusal("http://[::1]:8080/", LOOPBACK) is None
    assert refusal("http://[::ffff:127.0.0.1]:8080/", LOOPBACK) is None
    assert refusal("http://10.0.0.1:8080/", LOOPBACK) == "its host is a private or reserved address"


@given(st.text())
@example("https://[::1]]/")
@example("https://a:b:c/")
@example("https://℀.example/")
def test_any_text_is_taken_or_refused_in_one_line(text: str) -> None:
    said = refusal(text)
    assert said is None or (said.isprintable() and len(said) < 120)


@given(st.text(max_size=20).filter(lambda text: "hunter2" not in text))
def test_no_refusal_repeats_a_password(text: str) -> None:
    assert "hunter2" not in (refusal(f"https://hunter2:{text}@hunter2/hunter2") or "")


_PARTS = [
    *(
        "a",
        "B.example",
        "xn--zca",
        "127.0.0.1",
        "8.8.8.8",
        "10.0",
        "0x7f",
        "2130706433",
        "localhost",
        "[::1]",
        "[2a00::1]",
    ),
    *(
        ":80",
        ":443",
        ":8080",
        ":",
        "@",
        "/",
        "//",
        "?",
        "#",
        "%",
        "%2e",
        ".",
        "..",
        "-",
        "_",
        "[",
        "]",
        ";",
        "&",
        "\\",
        " ",
    ),
    *("\u3002", "\uff0e", "\uff11", "\u24d0", "\xdf", "\u2488", "\u202e"),
]
"""What a URL can be made of that two programs may read in two ways."""


@given(st.lists(st.sampled_from(_PARTS), max_size=6).map("".join), st.sampled_from(["http://", "https://", "HTTP://"]))
@example("8.8.8.8/@127.0.0.1", "http://")
@example("8.8.8.8?@127.0.0.1:80/", "http://")
@example("\u24d0.example/", "http://")
def test_the_client_reads_out_of_a_url_that_is_taken_no_user_no_other_port_and_no_address_that_is_refused(
    rest: str, scheme: str
) -> None:
    url = scheme + rest
    if refusal(url) is not None:
        return
    read = yarl.URL(url)
    assert (read.user, read.password, read.fragment) == (None, None, "")
    assert read.port in {80, 443}
    assert read.raw_host
    if read.raw_host.replace(".", "").isdecimal() or ":" in read.raw_host:
        assert is_permitted(read.raw_host, read.port)


@given(st.ip_addresses(), st.sampled_from([80, 443, 8080]), st.lists(st.sampled_from(["10.0.0.0/8", "::/0"])))
def test_an_address_is_judged_when_it_is_typed_as_when_it_is_connected_to(
    ip: IPv4Address | IPv6Address, port: int, networks: list[str]
) -> None:
    allowed: list[IPv4Network | IPv6Network] = [ip_network(network) for network in networks]
    assert (refusal(f"http://{_host(ip)}:{port}/", allowed) is None) == is_permitted(str(ip), port, allowed)


def _host(ip: IPv4Address | IPv6Address) -> str:
    return str(ip) if isinstance(ip, IPv4Address) else f"[{ip}]"
