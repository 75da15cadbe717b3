"""Refuse model files that are programs, unless the user says with `--trust` that they may run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.settings import Mistake

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from tasks.forms.modelfile import ModelFile

PROGRAMS = ("torchscript",)
"""Formats whose files can read and write other files once they are opened. TorchScript has operators for that."""


def trust_argument(command: argparse.ArgumentParser) -> None:
    """Add `--trust`."""
    command.add_argument(
        "--trust",
        action="store_true",
        help="run TorchScript files, which are programs; only where you know their author",
    )


def refuse_programs(files: Iterable[ModelFile], trusted: bool) -> None:
    """Raise `Mistake` where files are programs that are not trusted. This is called before anything opens a file."""
    programs = [file for file in files if file.format in PROGRAMS]
    if programs and not trusted:
        names = ", ".join(str(file.path) for file in programs)
        raise Mistake(
            f"{names}: a TorchScript file is a program, which can read and write your files; if you know who made "
            "it, add --trust"
        )
