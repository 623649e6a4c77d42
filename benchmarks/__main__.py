"""Lists the benchmark commands, a line each, with the minutes that they take.

python -m benchmarks
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Command:
    """What `python -m <module>` does. minutes: of the command in its docstring, on two cores."""

    module: str
    minutes: int
    line: str


def commands() -> Iterator[Command]:
    """Every file that can be run, those of training last. Files are read and not imported: some need torch."""
    for path in [*sorted(FOLDER.glob("[!_]*.py")), *sorted(FOLDER.glob("training/[!_]*.py"))]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            module = ".".join(["benchmarks", *path.relative_to(FOLDER).with_suffix("").parts])
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            line = first.removeprefix(f"`python -m {module}`: ").rstrip(".")
            yield Command(module, minutes(tree), f"{line[:1].upper()}{line[1:]}")


def minutes(tree: ast.Module) -> int:
    """The constant MINUTES of a module. Raises ValueError where there is none."""
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id="MINUTES")], value=ast.Constant(value=int(found))):
                return found
    raise ValueError("a command says in MINUTES how long it takes on two cores")


def main() -> None:
    """Print the list."""
    found = list(commands())
    width = max(len(command.module) for command in found)
    print("Minutes are those of the command that stands in the module's docstring, on two cores.\n")
    for command in found:
        print(f"python -m {command.module:{width}}  {command.minutes:4} min  {command.line}")


if __name__ == "__main__":
    main()
