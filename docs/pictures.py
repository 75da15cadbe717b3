"""Make the README's pictures: the report in headless Chromium, and what a terminal shows at the end of a run.

make pictures        # runs `burnish run quickstart` with LeNet-5 alone (minutes); needs chromium on the PATH
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS = 110
CHROMIUM = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--window-size=1200,1000",
)


def terminal(command: list[str]) -> str:
    """What a command writes to a terminal's standard output, colours included; its progress display goes to this
    one's."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=slave, env=environment)
    os.close(slave)
    text = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:
            # Linux says EIO when the last writer has closed the terminal
            break
        if not part:
            break
        text += part
    if code := process.wait():
        sys.exit(f"docs/pictures.py: {' '.join(command)} ended with exit code {code}")
    return text.decode().replace("\r\n", "\n")


def draw_terminal(text: str, command: list[str], target: Path) -> None:
    """Write a picture (SVG) of what a terminal shows."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(f"$ {' '.join(command)}", highlight=False)
    console.print(Text.from_ansi(text))
    picture = console.export_svg(title="burnish", clear=False)
    # Rich names fonts on a server of others; a font of the reader's own machine will do.
    target.write_text(re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL))


def draw_page(page: Path, target: Path) -> None:
    """Write a picture (PNG) of the top of a page, in few colours so that it stays small."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("docs/pictures.py: chromium is not on the PATH; install it (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "report.png"
        page_shot = (f"--user-data-dir={folder}/profile", f"--screenshot={shot}", page.absolute().as_uri())
        subprocess.run([chromium, *CHROMIUM, *page_shot], check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").quantize(64)
        picture.save(target, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="artifacts", help="where the run's artifacts are (default: %(default)s)")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of `burnish run`")
    given = parser.parse_args()
    burnish = Path(sys.executable).parent / "burnish"
    text = terminal([str(burnish), "run", *given.arguments, "--out", given.out])
    draw_terminal(text, ["burnish", "run", *given.arguments], HERE / "terminal.svg")
    told = subprocess.run([burnish, "report", "--out", given.out], check=True, text=True, capture_output=True)
    draw_page(Path(told.stdout.splitlines()[-1]), HERE / "report.png")


if __name__ == "__main__":
    main()
