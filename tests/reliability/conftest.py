"""A bucket for every test that asks for one."""

from collections.abc import Iterator

import pytest

from tests import emulated_bucket


@pytest.fixture(scope="session")
def _server() -> Iterator[emulated_bucket.Store]:
    with emulated_bucket.running() as store:
        yield store


@pytest.fixture
def bucket(_server: emulated_bucket.Store) -> emulated_bucket.Store:
    """The objects of `gs://bucket`, none at first."""
    _server.objects.clear()
    _server.requests.clear()
    _server.refuse = lambda method, name: False
    return _server
