"""How much is tried at random: a little in the suite, far more with `pytest --long`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

Examples = Callable[[int, int], Any]


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Examples:
    """`@examples(few, many)` above `@given`: few in the suite, many with --long; what fails can be drawn again."""
    from hypothesis import HealthCheck, settings

    def drawn(few: int, many: int) -> Any:
        count = many if request.config.getoption("--long") else few
        return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=[*HealthCheck])

    return drawn


@pytest.fixture
def seen() -> Iterator[Counter[str]]:
    """How often each thing came of what was tried; `pytest -rP` shows it."""
    found: Counter[str] = Counter()
    yield found
    print(dict(found))
