"""A bucket for every test that asks for one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests import emulated_bucket


@pytest.fixture(scope="session")
def _server() -> "Iterator[emulated_bucket.Store]":
    from tests import emulated_bucket  # which needs the extra `gcs`

    with emulated_bucket.running() as store:
        yield store


@pytest.fixture
def bucket(_server: "emulated_bucket.Store") -> "emulated_bucket.Store":
    """The objects of `gs://bucket`, none at first."""
    _server.objects.clear()
    _server.requests.clear()
    _server.refuse = lambda method, name: False
    return _server
