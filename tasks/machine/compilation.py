"""torch.compile with a cache that knows this machine's CPU."""

from __future__ import annotations

from typing import Any


def compiled(module: Any, **options: Any) -> Any:
    """Return a module or function compiled by `torch.compile` with these options.

    The cache that Inductor keeps on disk does not tell one CPU's vector width from another's (PyTorch 2.15). A graph
    that it wrote with AVX2 and finds again with AVX-512 is compiled for the wrong width and writes past its memory.
    Such a cache can outlive a machine (a home folder on a cluster, a container's image), so this function makes the
    CPU's capability a part of its key.
    """
    import torch
    import torch.compiler

    capability = torch.backends.cpu.get_cpu_capability()
    tag = torch.compiler.config.cache_key_tag
    if not tag.endswith(capability):
        torch.compiler.config.cache_key_tag = f"{tag}{capability}"
    return torch.compile(module, **options)
