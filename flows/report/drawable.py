"""Whether charts can be drawn in this process. Their engine, V8, ends the whole process where it gets no address
space."""

from __future__ import annotations

import logging
import mmap
import resource
from functools import cache
from html import escape

from tasks.machine.room import size

LOG = logging.getLogger("burnish")
V8_BYTES = 72 << 30
"""Address space that V8 may reserve when it starts, of which it uses next to nothing. 64.3 GiB were measured."""
WHY = "the address space that a process may have is limited (ulimit -v)"


@cache
def drawable() -> bool:
    """Return whether this process may reserve the address space that V8 needs. Where it may not, say so once."""
    try:
        # Neither readable nor writable, as V8 reserves it: it counts as address space alone.
        mmap.mmap(-1, V8_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=0).close()
    except (OSError, ValueError):
        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        how_far = f"to {size(limit)} here" if limit != resource.RLIM_INFINITY else "by the system"
        LOG.warning("charts are left out: what draws them reserves %s, and %s, %s", size(V8_BYTES), WHY, how_far)
        return False
    return True


def left_out(title: str) -> str:
    """Return an SVG in place of a chart, which says why there is none."""
    text = escape(f"{title}: left out, because {WHY}.")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{8 * len(text)}" height="32"><text x="4" y="20" '
        f'font-size="14" font-family="sans-serif" fill="currentColor">{text}</text></svg>'
    )
