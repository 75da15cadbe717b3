"""torch.compile with a cache that knows this machine's CPU."""

from __future__ import annotations

from typing import Any


def compiled(module: Any, **options: Any) -> Any:
    """The module or function compiled by `torch.compile`, with its `options`.

    Inductor's cache on disk does not tell one CPU's vectors from another's (PyTorch 2.15): a graph that it wrote with
    AVX2 and finds again with AVX-512 is compiled for the wrong width and writes past its memory. A cache outlives a
    machine (a home folder on a cluster, a container's image), so the CPU's capability becomes part of its key.
    """
    import torch
    import torch.compiler

    capability = torch.backends.cpu.get_cpu_capability()
    tag = torch.compiler.config.cache_key_tag
    if not tag.endswith(capability):
        torch.compiler.config.cache_key_tag = f"{tag}{capability}"
    return torch.compile(module, **options)
