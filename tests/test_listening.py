"""Where a server may listen, and what clients must send."""

from __future__ import annotations

import socket

import pytest

from quantpress.errors import InputError
from quantpress.listening import Address, free_address


def test_a_free_port_is_found() -> None:
    address = free_address("localhost", 0, None)
    assert address.host == "127.0.0.1"
    with socket.socket() as listener:
        listener.bind((address.host, address.port))
    assert free_address("127.0.0.1", address.port, None) == address


def test_a_port_that_is_taken_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(InputError, match=rf"127\.0\.0\.1 port {port}: expected a free port.*--port 0"):
            free_address("127.0.0.1", port, None)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])  # noqa: S104  (what is refused)
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(InputError, match=f"host {host}: expected an API key where other machines can connect"):
        free_address(host, 0, None)


def test_with_a_key_it_may_listen_on_all_addresses() -> None:
    address = free_address("0.0.0.0", 0, "secret")  # noqa: S104
    assert address.url == f"http://127.0.0.1:{address.port}/v1"


@pytest.mark.parametrize("key", ["", " ", "two words", "a,b", "clé", "line\nbreak"])
def test_a_key_that_cannot_be_sent_is_refused(key: str) -> None:
    with pytest.raises(InputError, match="API key: expected printable ASCII without spaces and commas"):
        free_address("127.0.0.1", 0, key)


@pytest.mark.parametrize(("host", "port"), [("", 0), ("no such host", 0), ("127.0.0.1", -1), ("127.0.0.1", 65536)])
def test_no_address_is_refused(host: str, port: int) -> None:
    with pytest.raises(InputError, match=r"host|port"):
        free_address(host, port, None)


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(InputError, match=r"192\.0\.2\.1 port .*expected a free port of this machine"):
        free_address("192.0.2.1", 0, "secret")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:80/v1"),
        ("::1", "http://[::1]:80/v1"),
        ("::", "http://[::1]:80/v1"),
        ("192.0.2.1", "http://192.0.2.1:80/v1"),
    ],
)
def test_programs_on_this_machine_find_it(host: str, url: str) -> None:
    assert Address(host, 80).url == url
