"""Lists the benchmark commands, a line each.

python -m benchmarks
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent


def commands() -> Iterator[tuple[str, str]]:
    """(module, what it does) of every file here that can be run, read and not imported: some need torch to import."""
    for path in sorted(FOLDER.glob("[!_]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.FunctionDef) and node.name == "main" for node in tree.body):
            first = (ast.get_docstring(tree) or "").partition("\n")[0]
            yield path.stem, first.removeprefix(f"`python -m benchmarks.{path.stem}`: ").rstrip(".")


def main() -> None:
    """Print the list."""
    for name, line in commands():
        print(f"python -m benchmarks.{name:12}  {line[:1].upper()}{line[1:]}")


if __name__ == "__main__":
    main()
