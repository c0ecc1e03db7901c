"""Rows of tables that have only some columns of a fitted encoder: those of a user, or those of an item."""

from __future__ import annotations

import reprlib
from typing import Any

import numpy as np
import scipy.sparse as sp

from fmfast.encoder import FeatureEncoder
from fmfast.encoder.dataframes import read_table
from fmfast.encoder.fields import rows_of


def encode_some(encoder: FeatureEncoder, X: Any, name: str) -> sp.csr_array:
    """(n_rows, n_features) as `encoder.transform` makes them, but a column that X lacks leaves no entry.

    `name` is how messages call X.
    """
    fields = encoder._fitted_fields("transform")
    table = read_table(X)
    numbers = [number for number, field in enumerate(fields) if field.name in table.names]
    if not numbers:
        raise ValueError(
            f"{name} has only the columns {reprlib.repr(table.names)}, expected some of "
            f"{reprlib.repr([field.name for field in fields])}; give it those that describe its rows."
        )
    present = [fields[number] for number in numbers]
    values = [field.values_of(table.column(field.name)) for field in present]
    rows = rows_of(present, values, table.n_rows, np.dtype(encoder.dtype))
    # Only the fields of the table stand side by side in `rows`: back to where they are among all.
    features = np.flatnonzero(np.isin(encoder.fields_, numbers))
    shape = (table.n_rows, encoder.n_features_out_)
    return sp.csr_array((rows.data, features[rows.indices], rows.indptr), shape=shape)
