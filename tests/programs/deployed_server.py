"""Starts the deployed server of the working folder with other limits. Each argument is MODULE.NAME=NUMBER.

It is started by its path, and PYTHONPATH is the deployed folder, because a deployed server must not find this project.
"""

import importlib
import json
import sys


def set_limit(setting: str) -> None:
    """Set a number in a module. A function is replaced by one that returns the number."""
    target, _, number = setting.partition("=")
    module_name, _, name = target.partition(".")
    module = importlib.import_module(module_name)
    value = json.loads(number)
    setattr(module, name, (lambda: value) if callable(getattr(module, name)) else value)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        set_limit(argument)
    importlib.import_module("app").main()
