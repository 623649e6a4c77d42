"""What a run hands out is measured in turns: which results end it instead, by the budget."""

from __future__ import annotations

import pytest

from ndpass.errors import BudgetError
from ndpass.planning.candidate import Budget
from ndpass.report import Latency
from ndpass.run.verify import check_latency

DEFAULT = Budget("pinned", faster=True, by_default=True)
FASTER = Latency(before=3.0, after=2.0, speedup=1.5, spread=(1.4, 1.6), is_faster=True)
SLOWER = Latency(before=3.0, after=5.0, speedup=0.6, spread=(0.5, 0.7), is_slower=True, is_faster=False)
UNPROVEN = Latency(before=3.0, after=2.9, speedup=1.03, spread=(0.8, 1.3), is_faster=False)
ALIKE = Latency(before=3.0, after=3.0, speedup=1.0, spread=(0.99, 1.01), is_faster=False)


@pytest.mark.parametrize("budget", [DEFAULT, Budget("speedup", 1.2), Budget("max_drop", 1.0), Budget("macs", 0.5)])
def test_what_is_proven_faster_is_handed_out_whatever_was_asked_for(budget: Budget) -> None:
    check_latency(FASTER, budget)


@pytest.mark.parametrize("budget", [DEFAULT, Budget("speedup", 1.2), Budget("max_drop", 1.0)])
def test_a_slower_model_is_never_handed_out_where_milliseconds_were_asked_for(budget: Budget) -> None:
    with pytest.raises(BudgetError, match=r"slower, 0\.60 times as fast as the original: nothing was written"):
        check_latency(SLOWER, budget)


def test_who_asks_for_macs_gets_them_also_slower() -> None:
    check_latency(SLOWER, Budget("macs", 0.5))


def test_who_asks_for_nothing_gets_no_model_that_is_not_proven_faster() -> None:
    with pytest.raises(BudgetError, match=r"not proven faster .* \(1\.00 times .* 0\.99 to 1\.01\)") as e:
        check_latency(ALIKE, DEFAULT)
    assert e.value.exit_code == 4
    assert "--calibration" in str(e.value)
    assert "busy" not in str(e.value)


def test_where_the_machine_is_busy_that_is_what_to_do_first() -> None:
    with pytest.raises(BudgetError, match=r"this machine is busy \(single rounds gave 0\.80 to 1\.30 times\)"):
        check_latency(UNPROVEN, DEFAULT)


def test_a_drop_that_was_kept_is_handed_out_with_what_the_rounds_show() -> None:
    check_latency(UNPROVEN, Budget("max_drop", 1.0))
