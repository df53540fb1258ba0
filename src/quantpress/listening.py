"""Where a server listens: an address of this machine and a free port, and a key where others can connect."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from quantpress.errors import InputError

__all__ = ["Address", "free_address"]

_KEY = re.compile(r"[!-+\--~]+")  # a header can carry it, and llama-server takes a comma for the end of a key
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Address:
    """A numeric address and a port."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where programs on this machine find its OpenAI interface."""
        host = self.host
        if ipaddress.ip_address(host.partition("%")[0]).is_unspecified:  # it listens on all, this one included
            host = "::1" if ":" in host else "127.0.0.1"
        return f"http://[{host}]:{self.port}/v1" if ":" in host else f"http://{host}:{self.port}/v1"


def free_address(host: str, port: int, api_key: str | None) -> Address:
    """Where to listen, at the port or at a free one for 0.

    Raises InputError for a host or a port on which nobody can listen, for a key that cannot be sent, and for an address
    that other machines can reach without a key.
    """
    address = _numeric(host, port)
    if api_key is not None and not _KEY.fullmatch(api_key):
        found = "another character" if api_key else "nothing"
        raise InputError(None, "API key", expected="printable ASCII without spaces and commas", found=found)
    if api_key is None and not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
        expected, hint = "an API key where other machines can connect", "Give --api-key, or listen on 127.0.0.1"
        raise InputError(None, f"host {host}", expected=expected, found="none", hint=hint)
    return Address(address, _free_port(address, port))


def _numeric(host: str, port: int) -> str:
    """The address of a host, IPv4 if it has both."""
    if not 0 <= port <= _LAST_PORT:
        raise InputError(None, "port", expected=f"0 to {_LAST_PORT}", found=port)
    if not host:
        raise InputError(None, "host", expected="an address of this machine", found="nothing")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError(None, f"host {host}", expected="an address of this machine", found=error) from error
    return str(min(found, key=lambda entry: entry[0] != socket.AF_INET)[4][0])


def _free_port(address: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a server that has just ended is no obstacle
        try:
            probe.bind((address, port))
            probe.listen()
        except OSError as error:
            expected, found = "a free port of this machine", error.strerror or error
            hint = "Take another, as with --port 8081, or --port 0 for any that is free"
            raise InputError(None, f"{address} port {port}", expected=expected, found=found, hint=hint) from error
        return int(probe.getsockname()[1])
