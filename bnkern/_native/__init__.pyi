"""What type checkers see of the compiled modules, for which there is no Python source."""

from typing import Any

checks: Any
c_api: Any
cpu: Any
kernels: Any
memory: Any
vectors: Any
