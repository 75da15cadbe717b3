"""Whether charts can be drawn here: their engine, V8, ends the whole process where it is refused address space."""

from __future__ import annotations

import logging
import mmap
import resource
from functools import cache
from html import escape

from tasks.machine.room import size

LOG = logging.getLogger("burnish")
V8_BYTES = 72 << 30
"""Address space that V8 reserves when it starts, and of which it uses next to nothing; 64.3 GiB were measured."""
WHY = "the address space that a process may have is limited (ulimit -v)"


@cache
def drawable() -> bool:
    """Whether this process may have the address space. Asked before V8 starts; where it may not, that is said once."""
    try:
        # Neither readable nor writable, as V8 reserves it: it counts as address space alone.
        mmap.mmap(-1, V8_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, ValueError):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        here = f"to {size(limit)} here" if limit != resource.RLIM_INFINITY else "by the system"
        LOG.warning("charts are left out: what draws them reserves %s, and %s, %s", size(V8_BYTES), WHY, here)
        return False
    return True


def left_out(title: str) -> str:
    """An SVG in place of a chart, which says why there is none."""
    text = escape(f"{title}: left out, because {WHY}.")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{8 * len(text)}" height="32"><text x="4" y="20" '
        f'font-size="14" font-family="sans-serif" fill="currentColor">{text}</text></svg>'
    )
