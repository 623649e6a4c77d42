"""A preprocessing as text that can be typed: the nearest preset and what differs from it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from typing import Any

from ndpass.calibration.preprocess import PRESETS, Preprocess
from ndpass.calibration.settings import size_text

DENOMINATOR = 1024  # a factor that is one over a whole number up to this is written as such, as 1/255


def preprocess_text(preprocess: Preprocess) -> str:
    """The shortest specification that `Preprocess.parse` reads as this preprocessing, as imagenet,size=32x32."""
    specs = [_beside(preprocess, name) for name in (None, *PRESETS)]
    exact = [spec for spec in specs if Preprocess.parse(spec) == preprocess]
    return min(exact, key=lambda spec: spec.count("="))  # of equals the first: without a preset, then those known best


def _beside(preprocess: Preprocess, preset: str | None) -> str:
    """The specification that starts from a preset, or from nothing."""
    base = PRESETS[preset] if preset else Preprocess()
    values = {field.name: getattr(preprocess, field.name) for field in dataclasses.fields(preprocess)}
    changed = {key: value for key, value in values.items() if value != getattr(base, key)}
    if preset and base.crop and "size" in changed and preprocess.crop == preprocess.size:
        changed.pop("crop", None)  # which a size alone moves, too
    if not preset and not changed:
        changed = {"scale": preprocess.scale}
    return ",".join([*([preset] if preset else []), *(f"{key}={_value_text(value)}" for key, value in changed.items())])


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        sized = all(isinstance(part, int) for part in value)
        return size_text((value[0], value[1])) if sized else ":".join(map(_number, value))
    return value if isinstance(value, str) else _number(value)


def _number(value: float) -> str:
    fraction = Fraction(value).limit_denominator(DENOMINATOR)
    decimal = repr(value) if value != int(value) else str(int(value))
    if fraction.numerator == 1 and fraction.denominator > 1 and float(fraction) == value:
        return min(decimal, f"1/{fraction.denominator}", key=len)
    return decimal
