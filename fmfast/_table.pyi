from typing import Any

from numpy.typing import NDArray

def fill_rows(
    rows: NDArray[Any], first_feature: int, n_factors: int, init_std: float, seed: int, state: NDArray[Any]
) -> None: ...
def all_finite(rows: NDArray[Any]) -> bool: ...
