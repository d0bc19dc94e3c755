"""Which hosts a tool's request may reach: a guard against requests forged into the caller's own network (SSRF)."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from toolscaler.agent.executors.checking import CheckFailed
from toolscaler.errors import ConfigError

#: Scheme, host in lower case, port.
Origin = tuple[str, str, int]

_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
#: Where clouds keep their credentials outside the link-local range (AWS over IPv6, Alibaba, Oracle).
_METADATA = frozenset(map(ipaddress.ip_address, ("fd00:ec2::254", "100.100.100.200", "192.0.0.192")))
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def origin_of(url: str) -> Origin:
    """Give scheme, host and port of an absolute http(s) URL.

    Raises:
        ValueError: It is none, or it holds a user name or password.
    """
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        raise ValueError(f"expected an http or https URL with a host, got {url!r:.200}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("expected a URL without user name and password")
    host = parts.hostname.lower()
    ascii_host = host if host.isascii() else host.encode("idna").decode()
    return parts.scheme, ascii_host, parts.port or _PORTS[parts.scheme]


class HostGuard:
    """Lets requests go to the given servers only.

    A server that is named by its address may be anywhere but in the link-local range, where clouds keep their
    credentials; ``localhost`` is this machine. Any other name must lead to public addresses only, and the request goes
    to the very address that was checked, so that a name cannot change its mind in between (DNS rebinding).

    Args:
        servers: URLs; scheme, host and port count.
        allow_private: Let server names lead to private addresses too: for services inside the caller's own network.

    Raises:
        ConfigError: A server is no http(s) URL.
    """

    def __init__(self, servers: Iterable[str], *, allow_private: bool = False) -> None:
        try:
            self.origins = frozenset(origin_of(server) for server in servers)
        except ValueError as error:
            raise ConfigError("servers", list(servers), str(error)) from error
        self._allow_private = allow_private

    def check(self, url: str) -> Origin:
        """Give the origin of a URL that may be reached.

        Raises:
            CheckFailed: ``forbidden``: it is not one of the servers.
        """
        try:
            origin = origin_of(url)
        except ValueError as error:
            raise CheckFailed("forbidden", f"the request may not go there: {error}") from error
        if origin not in self.origins:
            scheme, host, port = origin
            raise CheckFailed("forbidden", f"the request may not go to {scheme}://{host:.100}:{port}")
        return origin

    async def addresses(self, origin: Origin) -> list[str]:
        """Give the addresses of an allowed origin's host.

        Raises:
            CheckFailed: ``forbidden``: an address is private. ``connection``: the name is unknown.
        """
        host, port = origin[1], origin[2]
        literal = _literal(host)
        if literal is not None:
            if _keeps_credentials(literal) and not self._allow_private:
                raise CheckFailed("forbidden", f"the request may not go to the link-local address {host}")
            return [host]
        try:
            found: list[Any] = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise CheckFailed("connection", f"the name {host:.100} cannot be resolved: {error}") from error
        addresses = list(dict.fromkeys(str(item[4][0]).partition("%")[0] for item in found))
        if not self._allow_private:
            local = host == "localhost" or host.endswith(".localhost")
            wrong = [text for text in addresses if not (_is_loopback(text) if local else is_public(text))]
            if wrong:
                raise CheckFailed("forbidden", f"the name {host:.100} leads to a private address")
        return addresses


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _keeps_credentials(address: _Address) -> bool:
    """Say whether an address is where a cloud may keep credentials, also where IPv6 wraps it."""
    inner = _wrapped(address) or address
    return inner.is_link_local or inner in _METADATA


def _wrapped(address: _Address) -> _Address | None:
    """Give the IPv4 address that an IPv6 address leads to, if any."""
    if not isinstance(address, ipaddress.IPv6Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _is_loopback(text: str) -> bool:
    return ipaddress.ip_address(text).is_loopback


def is_public(text: str) -> bool:
    """Say whether an address is one of the public internet, also where IPv6 wraps an IPv4 address."""
    address: _Address = ipaddress.ip_address(text)
    inner = _wrapped(address)
    if inner is not None:
        return is_public(str(inner))
    return address.is_global and not address.is_multicast
