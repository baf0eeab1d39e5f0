"""A hub of files for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from huggingface_hub import close_session
from tests.models.files.filehub import FileHub, serving


@pytest.fixture
def hub() -> Iterator[FileHub]:
    with serving() as fake:
        yield fake
        close_session()
