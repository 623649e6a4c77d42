"""The text form of preprocessing: key=value pairs to typed settings, and the wording when one is wrong."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from ndpass.errors import UsageError, did_you_mean

Size = tuple[int, int]  # height, width


def read_settings(parts: list[str]) -> dict[str, Any]:
    """['size=224', 'std=1:2:3'] to {'size': (224, 224), 'std': (1.0, 2.0, 3.0)}."""
    settings: dict[str, Any] = {}
    for part in parts:
        key, equals, value = (text.strip() for text in part.partition("="))
        if not equals or key not in _READERS:
            raise wrong(
                "settings are key=value", f"{part!r}", f"keys are {', '.join(_READERS)}{did_you_mean(key, _READERS)}"
            )
        if key in settings:
            raise wrong("a setting is given once", f"{key} twice", "leave one out")
        settings[key] = _READERS[key](key, value)
    return settings


def _read_size(key: str, text: str) -> Size | None:
    if text == "none":
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", text, re.ASCII)
    if not match:
        raise wrong("a size is 224 or 224x320 (height x width) or none", f"{key}={text}", f"write {key}=224")
    return int(match[1]), int(match[2] or match[1])


def _read_number(key: str, text: str) -> float:
    above, _, below = text.partition("/")
    try:
        number = float(above) / float(below or 1)
    except (ValueError, ZeroDivisionError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise wrong("numbers are like 0.5 or 1/255, lists like 1:2:3", f"{key}={text}", f"write {key}=0.5")
    return number


def _read_list(key: str, text: str) -> tuple[float, ...]:
    if text.count("/") == 2 and ":" not in text:  # three numbers, told apart as in a date
        raise wrong("numbers of a list stand between colons", f"{key}={text}", f"write {key}={text.replace('/', ':')}")
    return tuple(_read_number(key, item) for item in text.split(":"))


def _read_text(_key: str, text: str) -> str:
    return text


_READERS: dict[str, Callable[[str, str], object]] = {
    "size": _read_size,
    "crop": _read_size,
    "mean": _read_list,
    "std": _read_list,
    "scale": _read_number,
    "color": _read_text,
    "layout": _read_text,
    "white": _read_number,
}


def check_choice(key: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise wrong(f"{key} is one of {', '.join(choices)}", f"{key}={value}", f"write {key}={choices[0]}")


def size_text(size: Size) -> str:
    return f"{size[0]}x{size[1]}"


def wrong(law: str, violation: str, remedy: str) -> UsageError:
    return UsageError(f"--preprocess: {law}; got {violation}; {remedy}")
