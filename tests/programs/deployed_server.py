"""Starts the deployed server of the working folder with other limits: each argument is a MODULE.NAME=NUMBER of its own.

It is started by its path, and PYTHONPATH is the deployed folder: such a server must find nothing of the project.
"""

import importlib
import json
import sys


def set_limit(setting: str) -> None:
    """Give a number of a module another value; a function is replaced by one that returns the value."""
    place, _, number = setting.partition("=")
    module_name, _, name = place.partition(".")
    module = importlib.import_module(module_name)
    value = json.loads(number)
    setattr(module, name, (lambda: value) if callable(getattr(module, name)) else value)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        set_limit(argument)
    importlib.import_module("app").main()
