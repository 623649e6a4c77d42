"""`ndpass passes`, `help` and `report-schema`: texts, without any model."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from ndpass.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from ndpass.passes import Pass

COLUMNS = 80


def passes(
    name: Annotated[str | None, typer.Argument(help="A pass, for all that there is to say of it.")] = None,
) -> None:
    """List the passes, a line each: name, what it does, its settings. With NAME: formula, when to use it, cost."""
    from ndpass.passes import find, usable
    from ndpass.passes.options import usage

    if name is not None:
        print("\n".join(described(find(name))))
        return
    found, broken = usable()
    for rule in found:
        print(f"{rule.name:4} {rule.summary} ({usage(rule.options)})")
    for reason in broken:
        print(f"ndpass: {reason}; left out", file=sys.stderr)


def described(rule: type[Pass]) -> Iterator[str]:
    """Lines of at most COLUMNS characters; what the class does not say is left out."""
    from ndpass.passes.options import allowed

    yield f"{rule.name}: {rule.summary}"
    about = inspect.getdoc(rule) if rule.__doc__ else ""
    if about:
        yield ""
        yield from textwrap.wrap(" ".join(about.split()), COLUMNS)
    if rule.formula:
        yield from ("", *(f"    {line}" for line in rule.formula.splitlines()))
    yield ""
    for key, words in rule.options.items():
        yield f"{key + '=':12}{allowed(words)}"
    data = (
        "calibration data are needed" if rule().needs_data else "works without data; fitted to them where there are any"
    )
    for head, text in (("when", rule.when), ("cost", rule.cost), ("data", data), ("reference", rule.reference)):
        if text:
            yield from textwrap.wrap(text, COLUMNS, initial_indent=f"{head:12}", subsequent_indent=" " * 12)
    yield f"{'example':12}ndpass run MODEL.onnx --passes {rule.name} --calibration DATA"


def help_(
    context: typer.Context,
    topic: Annotated[str | None, typer.Argument(help="One of the topics. Left out: a list of them.")] = None,
) -> None:
    """Explain a topic: budgets, data, exit-codes, int8, machines, metrics, passes, preprocess, refine,
    reports, resume."""
    from ndpass.cli.topics import TOPICS

    if topic is None:
        for name, (about, _) in TOPICS.items():
            print(f"ndpass help {name:12} {about}")
        print("ndpass COMMAND --help    the options of a command")
        return
    if topic not in TOPICS:
        if topic in getattr(context.find_root().command, "commands", ()):
            raise UsageError(f"'{topic}' is a command, no topic: ndpass {topic} --help has its options")
        raise UsageError(
            f"there is no topic '{topic}': the topics are {', '.join(TOPICS)}{did_you_mean(topic, TOPICS)}"
        )
    print(TOPICS[topic][1](), end="")


def report_schema() -> None:
    """Print the JSON schema of what `run --json` writes."""
    from ndpass.report import Report

    print(Report.json_schema(), end="")
