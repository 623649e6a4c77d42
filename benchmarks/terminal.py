"""`python -m benchmarks.terminal`: what README's first command prints on a terminal, as a picture.

    python -m benchmarks.terminal [OUT.svg]

Writes docs/terminal.svg. It is a real run on the digits network, so its milliseconds are those of this machine.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import options
from ndpass.files.staging import write_text

MINUTES = 1
COLUMNS = 104
COMMAND = ("run", "--passes", "cp")
PICTURE = Path(__file__).parents[1] / "docs" / "terminal.svg"


def main() -> None:
    parser = options.described(__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=PICTURE, metavar="OUT.svg")
    output = parser.parse_args().output
    with tempfile.TemporaryDirectory() as folder:
        shown = printed([sys.executable, "-m", "ndpass", *COMMAND], Path(folder))
    write_text(output, drawn(shown, " ".join(["ndpass", *COMMAND])))
    print(f"wrote {output}")


def printed(command: list[str], folder: Path) -> str:
    """What a command prints on a terminal of COLUMNS, colours included; its progress is left out.

    Raises CalledProcessError where it fails.
    """
    mine, its = pty.openpty()
    wanted = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    wanted.pop("NO_COLOR", None)
    with subprocess.Popen(command, cwd=folder, env=wanted, stdout=its, stderr=subprocess.PIPE, text=True) as running:
        os.close(its)
        text = _all(mine)
        said = running.stderr.read() if running.stderr else ""
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command, text, said)
    return text


def _all(terminal: int) -> str:
    """Everything until the other end is closed, which Linux reports as an error."""
    parts = []
    try:
        while part := os.read(terminal, 1 << 16):
            parts.append(part)
    except OSError:
        pass
    os.close(terminal)
    return b"".join(parts).decode()


def drawn(shown: str, command: str) -> str:
    """A terminal window as SVG that loads nothing: the viewer's own fixed-width font in the place of the web's."""
    from rich.console import Console
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.from_ansi(f"$ {command}\n{shown}".replace("\r", "")))
    svg = console.export_svg(title="", unique_id="ndpass")
    return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


if __name__ == "__main__":
    main()
