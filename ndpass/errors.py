"""What can go wrong, each kind with the exit code that the command line gives it.

A message is one line: what is wrong, where (the file or the layer), and what to type instead.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 2_000  # characters of a message; names in a file may have any number


def one_line(text: str) -> str:
    """Text from anywhere as one line for a terminal: what cannot be printed is written as Python does, and what is too
    long loses its middle.

    >>> one_line("layer 'a\\nb'")
    "layer 'a\\\\nb'"
    """
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    half = LONGEST // 2
    return shown if len(shown) <= LONGEST else f"{shown[:half]} ... {shown[-half:]}"


class NdpassError(Exception):
    """Base class of every error that ndpass raises on purpose. Its text is one line, whatever names stand in it."""

    exit_code = 1

    def __init__(self, text: str = "") -> None:
        super().__init__(one_line(text))


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


class EngineError(NdpassError):
    """The machines of --engine cannot be reached, are not fit for the run, or were lost; what was done is kept."""

    exit_code = 6


class OutputError(UsageError):
    """A file cannot be written where it was asked for."""


DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # only writing ends in these


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an InputError that names the file which cannot be read.

    path: the file to name where the OSError names none, as a failing `read` does not.
    """
    try:
        yield
    except OSError as e:
        raise InputError(f"{e.filename or path}: cannot be read: {e.strerror or e}") from e


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an OSError of the block into an OutputError that names `path`, the file as the user knows it."""
    try:
        yield
    except OSError as e:
        raise OutputError(f"{path}: cannot be written: {e.strerror or e}") from e


def blamed(error: OSError) -> NdpassError:
    """The one-line error for an OSError that came from neither `reading` nor `writing`.

    Everything that ndpass writes goes through `writing`, so the file that such an error names was being read.
    """
    subject = "a file" if error.filename is None else f"{error.filename}:"
    if error.errno in DISK_FULL:
        return OutputError(f"{subject} cannot be written: {error.strerror}")
    return InputError(f"{subject} cannot be read: {error.strerror or error}")


def out_of_memory(error: MemoryError) -> str:
    """The one line for a MemoryError, which NumPy's say more of than Python's own."""
    why = f": {last_words(str(error))}" if str(error).strip() else ""
    return f"the model or the data need more memory than there is{why} (give --memory less, or fewer samples)"


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Put the file's name before an InputError that lacks it, raised where only its contents are known."""
    try:
        yield
    except InputError as e:
        if str(path) in str(e):
            raise
        raise InputError(f"{path}: {e}") from e


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: "; did you mean 'nd'?", or nothing where no known word is near.

    Upper and lower case count as equal, so that ND finds nd.
    """
    from difflib import get_close_matches

    names = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), names, n=1)
    return f"; did you mean '{names[near[0]]}'?" if near else ""


BOILERPLATE = (
    "Exception from",
    "Check '",
    "To facilitate",
    "Summary:",
    "FrontEnd API failed",
    "Model wasn't fully",
    "Please fix",
    "While validating",
    "-- Conversion is failed",
)
OPERATOR = re.compile(r"-- \S+ with a message:")  # the head of a block in OpenVINO's log of a conversion


@contextmanager
def blaming(law: str) -> Iterator[None]:
    """Turn whatever a runtime raises, whose classes share no parent, into an InputError of one line."""
    try:
        yield
    except (NdpassError, MemoryError):
        raise
    except Exception as e:
        raise InputError(f"{law}: {last_words(str(e))}") from e


def last_words(message: str) -> str:
    """The line of a runtime's message that says most: the last one that is no boilerplate.

    Of a log of operators, one block each, it is that of the first: the others may well fail because that did.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    heads = [i for i, line in enumerate(lines) if OPERATOR.fullmatch(line)]
    if heads and (found := _telling(lines[heads[0] + 1 : (heads[1:] or [len(lines)])[0]])):
        return f"{lines[heads[0]].split()[1]}: {found[-1]}"
    return (_telling(lines) or lines or ["no reason given"])[-1]


def _telling(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith(BOILERPLATE)]
