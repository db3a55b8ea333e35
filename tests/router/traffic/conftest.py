"""Every end-to-end test of the proxy runs twice, on fibers and with a task per connection: one life, two drivers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.router.traffic.upstreams import DRIVER


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.module.__name__.rpartition(".")[2].startswith("test_proxy"):
        metafunc.parametrize("driver", ["fibers", "tasks"], indirect=True)


@pytest.fixture
def fibers_only(driver: None) -> None:
    """For what a task cannot. (Skipped within an async test, the reason would not be printed.)"""
    if DRIVER.get() != "fibers":
        pytest.skip("a plain task waits for one socket")


@pytest.fixture(autouse=True)
def driver(request: pytest.FixtureRequest) -> Iterator[None]:
    before = DRIVER.set(getattr(request, "param", "fibers"))
    yield
    DRIVER.reset(before)
