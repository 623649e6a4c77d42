"""The examples in the docstrings of what users import do what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest

PUBLIC = ("ndpass.api", "ndpass.conv", "ndpass.openvino", "ndpass.passes", "ndpass.testing", "ndpass.calibration.feeds")


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_of(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert done.attempted
    assert not done.failed
