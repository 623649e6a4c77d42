"""A limit of memory below the need ends a run before its work, in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from scenarios import GIVEN, SCENARIOS, needs_fork, prepared, run

from ndpass.errors import InputError
from ndpass.run.address_space import COPIES, LEAST, address_space_left, check_address_space

MEGABYTE = 1 << 20


@needs_fork
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux keeps RLIMIT_AS")
def test_a_run_that_may_not_take_what_it_needs_says_so_at_once(tmp_path: Path) -> None:
    place = prepared(tmp_path)
    for megabytes in (1, 600):
        ended = run(place, SCENARIOS["planned"].args, memory=megabytes * MEGABYTE)
        assert ended.code == 3
        assert ended.err.startswith("ndpass: reading\nndpass: this process may take ")
        assert ended.err.count("\n") == 2
        assert "raise the limit" in ended.err
    assert place.strays(GIVEN) == []


def test_the_need_grows_with_the_model() -> None:
    weights = 100 * MEGABYTE
    check_address_space(weights, False, lambda: LEAST + COPIES * weights)
    check_address_space(weights, True, lambda: None)
    with pytest.raises(InputError, match=r"this process may take 1493 MB more of memory, .* needs about 1493 MB"):
        check_address_space(weights, False, lambda: LEAST + COPIES * weights - 1)


def test_without_a_limit_nothing_is_said() -> None:
    if address_space_left() is not None:
        pytest.skip("this process has a limit")
    check_address_space(1 << 50, True)
