from typing import Any

from numpy.typing import NDArray

FINDINGS: dict[str, int]

def parse(
    text: bytes,
    has_label: bool,
    has_qid: bool,
    has_field: bool,
    lowest: int,
    highest: int,
    y: NDArray[Any],
    qid: NDArray[Any],
    indptr: NDArray[Any],
    data: NDArray[Any],
    indices: NDArray[Any],
    field: NDArray[Any],
) -> tuple[int, int, int, int, int, int, int, int]: ...
def merge_fields(field: NDArray[Any], indices: NDArray[Any], field_of: NDArray[Any]) -> int: ...
def write(
    y: NDArray[Any],
    qid: NDArray[Any],
    field: NDArray[Any],
    data: NDArray[Any],
    indices: NDArray[Any],
    indptr: NDArray[Any],
    base: int,
    row: int,
    entry: int,
    text: bytearray,
) -> tuple[int, int, int]: ...
