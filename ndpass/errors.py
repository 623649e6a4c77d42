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


BOILERPLATE = (
    "Exception from",
    "Check '",
    "To facilitate",
    "Summary:",
    "FrontEnd API failed",
    "Model wasn't fully",
    "Please fix",
)


@contextmanager
def blaming(law: str) -> Iterator[None]:
    """Turns what a runtime raises, whose classes share no parent, into an InputError of one line."""
    try:
        yield
    except (NdpassError, MemoryError):
        raise
    except Exception as e:
        raise InputError(f"{law}: {last_words(str(e))}") from e


def last_words(message: str) -> str:
    """The line of a runtime's message that says most: the last one that is no boilerplate."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(BOILERPLATE)]
    return (telling or lines or ["no reason given"])[-1]
