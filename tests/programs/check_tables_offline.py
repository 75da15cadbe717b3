"""Checks a `memory` table and builds its data docs while every network connection is refused.

Arguments: the table's file, and the folder for the data docs.
"""

import logging
import socket
import sys
from pathlib import Path
from typing import Any, NoReturn


def refuse(*_: Any) -> NoReturn:
    raise OSError("this program may not connect to a network")


def main(table: Path, docs: Path) -> None:
    socket.socket.connect = socket.getaddrinfo = refuse  # type: ignore[method-assign,assignment]
    logging.basicConfig(level=logging.INFO)
    from tasks.tables.expectations import Checks

    assert not {"great_expectations", "pandas", "pyarrow"} & sys.modules.keys()
    logging.info("start")
    checks = Checks()
    assert checks.validate({"memory": table}) == []
    checks.build_docs(docs)
    assert "great_expectations" in sys.modules


main(Path(sys.argv[1]), Path(sys.argv[2]))
