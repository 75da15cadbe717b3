"""How the check of a bundle can fail."""

from __future__ import annotations


class Differs(Exception):
    """A bundle's model gives other outputs than its golden ones. The message is one line, with which and how far."""
