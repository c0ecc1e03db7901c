"""Factorization machines on a Dask cluster: `DaskFMRegressor`, `DaskFMClassifier`.

Needs `pip install 'fmfast[dask]'`; `import fmfast` alone does not import it. docs/dask.md tells how to use
them.
"""

from fmfast.dask.estimators import DaskFMClassifier, DaskFMRegressor

__all__ = ["DaskFMClassifier", "DaskFMRegressor"]
