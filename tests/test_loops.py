from __future__ import annotations

import asyncio

import pytest
from tests.loops import new_uvloop


def test_a_loop_that_is_closed_with_something_open_ends_and_says_so() -> None:
    loop = new_uvloop()
    loop.run_until_complete(loop.create_server(asyncio.Protocol, "127.0.0.1", 0))
    with pytest.raises(ResourceWarning, match="TCPServer"):
        loop.close()
    assert loop.is_closed()
