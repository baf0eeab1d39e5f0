from __future__ import annotations

import pytest

from ssis_dispatcher.http import addresses
from ssis_dispatcher.http.addresses import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [("127.0.0.1:80", ("127.0.0.1", 80)), ("[::1]:8080", ("::1", 8080)), ("gateway.svc:80", ("gateway.svc", 80))],
)
def test_an_address_and_its_text_are_each_other(text: str, address: Address) -> None:
    assert addresses.split(text) == address
    assert addresses.join(*address) == text


@pytest.mark.parametrize("text", ["", "host", "host:", "host:http"])
def test_a_text_without_a_port_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        addresses.split(text)
