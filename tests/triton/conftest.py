"""One real server for all tests of a worker: made once, started as often as needed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.triton.images import Bench, make_bench


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = make_bench(tmp_path_factory.mktemp("bench"))
    yield made
    made.store.close()
