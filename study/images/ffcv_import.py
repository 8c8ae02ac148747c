"""FFCV, without what importing it does beside.

`import ffcv` compiles a dictionary for the names of its image modes, for two seconds, and sets torch's
thread count. Here nothing is compiled, which what we use of FFCV (its writer, its reader, its C decoders)
does not need, and the count is put back. Its Loader still compiles what it needs when it is made.
"""

from __future__ import annotations

import numba
import torch

_threads, _disabled = torch.get_num_threads(), numba.config.DISABLE_JIT
numba.config.DISABLE_JIT = True
try:
    import ffcv
    import ffcv.libffcv
    import ffcv.reader
finally:
    numba.config.DISABLE_JIT = _disabled
    torch.set_num_threads(_threads)

__all__ = ["ffcv"]
