from collections.abc import Sequence
from typing import Any

def facts(
    shape: Sequence[int],
    strides: Sequence[int],
    axis: int,
    itemsize: int,
    passes: int,
    threads: int,
    frozen: bool = False,
) -> dict[str, Any] | None: ...

def set_default_threads(n: int) -> None: ...

class forced:
    def __init__(
        self,
        *,
        strategy: str = "",
        stream_bytes: int | None = None,
        group_bytes: int | None = None,
        grain: int | None = None,
    ) -> None: ...
    def __enter__(self) -> forced: ...
    def __exit__(self, *_: object) -> None: ...
