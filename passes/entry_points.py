"""The passes that installed packages offer, in the entry-point group "ndpass.passes"."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ndpass.errors import NdpassError, UsageError, last_words
from ndpass.passes.base import Decomposition

GROUP = "ndpass.passes"


def offered() -> dict[str, EntryPoint]:
    """The entry points by name, none of them loaded; of two with one name the first counts."""
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, point)
    return found


def load(point: EntryPoint) -> type[Decomposition]:
    """The pass of an entry point. Raises UsageError, with the reason in one line, where it cannot be used."""
    try:
        rule = point.load()
    except (Exception, SystemExit) as e:  # whatever an import can raise
        said = last_words(str(e)) if str(e).strip() else type(e).__name__
        raise UsageError(f"pass '{point.name}' of {point.value} cannot be loaded: {said}") from e
    for fault in _faults(point, rule):
        raise UsageError(f"pass '{point.name}' of {point.value} {fault}: ndpass.testing.check_pass says what it lacks")
    return _guarded(point, rule)


def _guarded(point: EntryPoint, rule: type[Decomposition]) -> type[Decomposition]:
    """The same class, but that what its methods raise becomes a UsageError of one line that names the pass."""

    def guard(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **options: Any) -> Any:
            try:
                return method(*args, **options)
            except (NdpassError, MemoryError):
                raise
            except Exception as e:  # whatever somebody else's code can raise
                said = f"{type(e).__name__}: {last_words(str(e))}"
                raise UsageError(f"pass '{point.name}' of {point.value} fails in {name}: {said}") from e

        return call

    own: dict[str, Any] = {
        n: guard(n, m) for n, m in inspect.getmembers(rule, inspect.isfunction) if not n.startswith("_")
    }
    own |= {"__module__": rule.__module__, "__qualname__": rule.__qualname__, "__doc__": rule.__doc__}
    guarded: type[Decomposition] = type(rule.__name__, (rule,), own)
    return guarded


def _faults(point: EntryPoint, rule: Any) -> Iterator[str]:
    if not (isinstance(rule, type) and issubclass(rule, Decomposition)) or getattr(rule, "name", None) != point.name:
        yield "is no ndpass.passes.Decomposition of that name"
    elif inspect.isabstract(rule):
        yield f"lacks {', '.join(sorted(rule.__abstractmethods__))}"
    elif missing := [key for key in ("summary", "options") if not hasattr(rule, key)]:
        yield f"lacks {', '.join(missing)}"
    else:
        try:
            rule()
        except Exception as e:  # whatever a constructor can raise
            yield f"cannot be made without options ({last_words(str(e))})"
