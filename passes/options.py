"""The options of a pass: what `nd:rank=2:form=dw-pw` may say, and how a value is checked.

An option has words, or takes a number, or both: `("pw-dw", "dw-pw")` are the words of a form, `()` takes a whole
number from 1 on, `("full",)` takes a whole number or the word full, which stands for the largest number there is, and
words beside it, as `("full", "none")`.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ndpass.errors import UsageError, did_you_mean

Options = Mapping[str, Sequence[str]]  # option -> its words


def checked(name: str, options: Options, key: str, value: Any) -> int | str:
    """The value of option `key` of the pass `name`: a word of it, or a number from 1 on, which may come as text.

    Raises UsageError naming what is allowed, for any other value: 2.5, True, None and -1 among them.
    """
    if key not in options:
        known = f"it has {', '.join(options)}" if options else "it has none"
        raise UsageError(f"pass '{name}' has no setting '{key}': {known}{did_you_mean(key, options)}")
    words = options[key]
    if isinstance(value, str) and value in words:
        return str(value)
    number = _whole(value) if takes_number(words) else None
    if number is None or (number < 1 and not words):
        raise UsageError(f"{name}:{key}={value}: give {allowed(words)}{did_you_mean(str(value), words)}")
    if number < 1:
        raise UsageError(f"{name}:{key}={value}: a {key} is at least 1")
    return number


def takes_number(words: Sequence[str]) -> bool:
    """Whether an option with these words takes a number."""
    return not words or "full" in words


def allowed(words: Sequence[str]) -> str:
    """What an option with these words takes, as a message says it."""
    if not words:
        return "a whole number, at least 1"
    return " or ".join(("a whole number", *words) if takes_number(words) else words)


def usage(options: Options) -> str:
    """All options in a line, as `ndpass passes` lists them: rank=N|full; form=pw-dw|dw-pw."""
    return "; ".join(
        f"{key}={'|'.join(('N', *words) if takes_number(words) else words)}" for key, words in options.items()
    )


def setting_text(setting: Mapping[str, Any]) -> str:
    """A setting as the command line takes it: rank=2:form=dw-pw."""
    return ":".join(f"{key}={value}" for key, value in setting.items())


def _whole(value: Any) -> int | None:
    """The whole number that a value is; None for all else, for text with a sign among it."""
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) < 20 else None
    if isinstance(value, bool | np.bool_):  # before NumPy 2 the latter is an index, too
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    try:
        return operator.index(value)
    except TypeError:
        return None
