"""What a target is and what it refuses."""

from __future__ import annotations

import openvino as ov
import pytest

from ndpass.errors import UsageError
from ndpass.measuring.target import Target


def test_properties_are_those_of_a_runtime_session() -> None:
    assert Target("f32", threads=1).properties() == {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": 1,
    }
    assert "INFERENCE_PRECISION_HINT" not in Target("int8").properties()


def test_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"device NPU9 is not there: OpenVINO finds .*CPU"):
        Target(device="NPU9")


def test_the_default_precision_is_one_that_this_cpu_has() -> None:
    found = Target.default_precision()
    assert found in ("f32", "bf16")
    Target(found).properties()


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"batch": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="from 1 on; got 0"):
        Target(**wrong)


def test_bf16_is_refused_in_one_line_where_the_cpu_has_none_and_taken_where_it_has() -> None:
    if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert Target("bf16").properties()["INFERENCE_PRECISION_HINT"] == "bf16"
        return
    with pytest.raises(UsageError, match="precision bf16 needs a device that has it"):
        Target("bf16").properties()
