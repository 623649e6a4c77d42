"""What can go wrong, each kind with the exit code that the command line gives it.

A message states the law, the violation and the remedy in one line, and names the file or the site.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class NdpassError(Exception):
    """Parent of every error that ndpass raises on purpose."""

    exit_code = 1


class UsageError(NdpassError):
    """An option, pass or setting that does not exist or is out of range."""

    exit_code = 2


class InputError(NdpassError):
    """A model, data set or plan that cannot be read, is invalid, or is unsupported as a whole."""

    exit_code = 3


class BudgetError(NdpassError):
    """The budget cannot be reached; the message says what can."""

    exit_code = 4


class VerificationError(NdpassError):
    """The rewritten model does not do what was promised; nothing was written."""

    exit_code = 5


class OutputError(UsageError):
    """A file cannot be written where it was asked for."""


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Puts the file's name before an InputError that lacks it, raised where only its contents are known."""
    try:
        yield
    except InputError as e:
        if str(path) in str(e):
            raise
        raise InputError(f"{path}: {e}") from e
