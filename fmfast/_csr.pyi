from typing import Any

from numpy.typing import NDArray

FINDINGS: dict[str, int]

def first_decrease(indptr: NDArray[Any]) -> int: ...
def inspect_columns(indices: NDArray[Any], indptr: NDArray[Any], n_features: int) -> tuple[int, int]: ...
def inspect_values(data: NDArray[Any], limit: float) -> tuple[int, bool]: ...
def count_columns(
    indices: NDArray[Any],
    indptr: NDArray[Any],
    runs: NDArray[Any],
    run_length: int,
    counts: NDArray[Any],
    found: NDArray[Any],
) -> int: ...
