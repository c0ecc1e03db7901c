"""Imports point one way, and nothing but NumPy and SciPy is needed to fit, predict, save and load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fmfast

PACKAGE = Path(fmfast.__file__).parent
EXTENSIONS = (
    "_coordinate",
    "_core",
    "_cpu",
    "_csr",
    "_decimal",
    "_ranking",
    "_table",
    "_text",
)  # with their builds for instruction sets, as _core_v3

# Lowest first: a module may import what stands above it in this list, and nothing else of fmfast.
LAYERS = [
    # the bottom: words for errors, files, arrays from outside
    "exceptions",
    "_sklearn",
    "_files",
    "_archive",
    "_classes",
    "parameters",
    "paging",
    "validation",
    "targets",
    # columns of strings and numbers from outside; these know no model
    "encoder.dataframes",
    "encoder.values",
    "encoder.fields",
    "encoder",
    "encoder.partial",
    # kernels, and the model in them; these know no solver
    "_dispatch",
    "config",
    "interruption",
    "table",
    "model",
    "ranking_model",
    "arrays",
    "columns",
    "_selection",
    "explain",
    # data on disk
    "_streams",
    "_batches",
    "_reader",
    "store",
    "text",
    "_convert",
    # these know no estimator
    "solvers.threads",
    "solvers.windows",
    "solvers.sgd",
    "solvers.ranking",
    "solvers.sweep",
    "solvers.als",
    "solvers.gibbs",
    "solvers",
    "interactions",
    "averaging",
    "posterior",
    "training",
    "sampling",
    "ranking_metrics",
    "metrics",
    "_siderows",
    "modelfile",
    "checkpoint",
    # the surface
    "_docs",
    "base",
    "tasks",
    "machine",
    "estimators",
    "bayesian",
    "libfm",
    "retrieval",
    "ranked_lists",
    "ranking",
    "plot",
    "__init__",
    # what is built on it
    "dask.parts",
    "dask.worker",
    "dask.rounds",
    "dask.fitting",
    "dask.prediction",
    "dask.estimators",
    "dask",
    "datasets",
    "numpy_baseline",
    "demo",
    "cli.options",
    "cli.data",
    "cli.cache",
    "cli.progress",
    "cli.train",
    "cli.predict",
    "cli.evaluate",
    "cli.convert",
    "cli.info",
    "cli.demo",
    "cli",
    "__main__",
]
KERNEL_USERS = {"_dispatch", "validation", "_reader", "text"}
LIBRARIES = {"numpy", "scipy"}
# Imported where they are used, not at the top; `compression` is of the standard library from 3.14 on.
OPTIONAL = {
    "_batches": {"pyarrow"},
    "_sklearn": {"sklearn"},
    "_streams": {"compression", "zstandard"},
    "cli.data": {"pyarrow"},
    "cli.progress": {"tqdm"},
    "dask.estimators": {"dask", "distributed"},
    "dask.fitting": {"distributed"},
    "dask.parts": {"dask", "distributed"},
    "dask.prediction": {"dask"},
    "dask.rounds": {"distributed"},
    "dask.worker": {"distributed"},
    "demo": {"matplotlib"},
    "plot": {"matplotlib"},
}


def sources():
    """{name of the module below fmfast: its syntax tree}"""
    trees = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"))
    return trees


SOURCES = sources()


def imports_of(tree):
    """All modules that are imported, anywhere in a file; `from a import b` as a.b where b is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if is_module(name) else node.module


def is_module(name):
    below = name.removeprefix("fmfast.")
    return below in SOURCES or below.startswith(EXTENSIONS)


def own_imports(name):
    """Modules of fmfast that one of them imports, without the prefix; the package itself is "__init__"."""
    for imported in imports_of(SOURCES[name]):
        if imported == "fmfast":
            yield "__init__"
        elif imported.startswith("fmfast."):
            yield imported.removeprefix("fmfast.")


def test_every_module_has_its_layer():
    assert sorted(SOURCES) == sorted(LAYERS)


@pytest.mark.parametrize("name", LAYERS)
def test_imports_point_one_way(name):
    lower = LAYERS[: LAYERS.index(name)]
    for imported in own_imports(name):
        if imported.startswith(EXTENSIONS):
            assert name in KERNEL_USERS, f"{name} imports the kernel {imported}"
        else:
            assert imported in lower, f"{name} imports {imported}, which does not stand below it"


def test_the_reader_of_imports_finds_them():
    """The tests here would pass on anything if it did not."""
    assert set(own_imports("targets")) == {"_sklearn", "exceptions", "paging", "validation"}
    assert {"_csr"} <= set(own_imports("validation"))
    assert {"solvers", "model", "posterior", "table"} <= set(own_imports("training"))
    assert {"solvers.als", "solvers.sgd"} <= set(own_imports("solvers"))
    assert "sklearn.utils" in set(imports_of(SOURCES["_sklearn"]))
    assert set(own_imports("__init__")) >= {"estimators", "exceptions", "model", "modelfile"}


@pytest.mark.parametrize("name", LAYERS)
def test_libraries(name):
    """NumPy, SciPy and the standard library; scikit-learn is named in one room only."""
    imported = {module.partition(".")[0] for module in imports_of(SOURCES[name])} - {"fmfast"}
    foreign = imported - LIBRARIES - sys.stdlib_module_names
    assert foreign <= OPTIONAL.get(name, set())
    at_the_top = {
        module.partition(".")[0]
        for node in SOURCES[name].body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for module in imports_of(node)
    }
    assert not at_the_top & foreign


KERNELS = sorted([*PACKAGE.glob("*.pyx"), *PACKAGE.glob("*.pxd")])


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernels_import_no_python(path):
    """They take arrays and return numbers: of fmfast they see only C declarations."""
    code = path.read_text(encoding="utf-8")
    imported = re.findall(r"^\s*(?:import\s+(\S+)|from\s+(\S+)\s+import\b)", code, flags=re.MULTILINE)
    assert imported == []
    for module in re.findall(r"^\s*from\s+fmfast\.(\S*)\s+cimport\b", code, flags=re.MULTILINE):
        assert (PACKAGE / f"{module}.pxd").exists()
    assert not re.search(r"^\s*print\(", code, flags=re.MULTILINE)


def test_all_kernels_are_seen():
    assert {path.name for path in KERNELS} >= {
        *("_coordinate.pyx", "_core.pyx", "_csr.pyx", "_table.pyx", "_losses.pxd")
    }


# -- in a process of its own -------------------------------------------------------------------

BLOCK = """if True:
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in ("sklearn", "pandas", "matplotlib", "joblib", "Cython", "dask"):
                raise ImportError(f"{name} is blocked")

    sys.meta_path.insert(0, Blocker())
"""
USE = """
    import copy, pickle, tempfile, warnings
    from pathlib import Path
    import numpy as np, scipy.sparse as sp
    import fmfast
    warnings.simplefilter("error")
    rng = np.random.default_rng(0)
    X = sp.random_array((200, 20), density=0.2, rng=rng, format="csr")
    y = X.sum(axis=1) + rng.normal(size=200)
    for fm, target in ((fmfast.FMRegressor(random_state=0), y), (fmfast.FMClassifier(random_state=0), y > 1)):
        try:
            fm.predict(X)
        except fmfast.NotFittedError as error:
            assert isinstance(error, (ValueError, AttributeError))
        else:
            raise AssertionError("predicted without a fit")
        fm.fit(X, target, eval_set=(X, target)).partial_fit(X, target)
        assert fm.score(X, target) > 0.5
        path = Path(tempfile.mkdtemp()) / "model.npz"
        fm.save(path)
        for twin in (fmfast.load(path), pickle.loads(pickle.dumps(fm)), copy.deepcopy(fm)):
            assert (twin.predict(X.toarray()) == fm.predict(X)).all()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fm.fit(X, np.reshape(target, (-1, 1)))
        assert [type(warning.message) for warning in caught] == [fmfast.DataConversionWarning]
    foreign = {name.partition(".")[0] for name in sys.modules} & {"sklearn", "pandas", "matplotlib", "dask"}
    assert not foreign, foreign
    print("done")
"""


def run(script):
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_works_where_scikit_learn_and_pandas_are_missing():
    assert run(BLOCK + USE) == "done"


def test_the_blocker_blocks():
    result = subprocess.run(
        [sys.executable, "-c", BLOCK + "    import sklearn"], capture_output=True, text=True
    )
    assert "sklearn is blocked" in result.stderr


def test_imports_nothing_optional_where_it_is_installed():
    pytest.importorskip("sklearn")
    assert run("if True:\n    import sys\n" + USE) == "done"


@pytest.mark.parametrize("module", ["scipy.stats", "scipy.special", "scipy.linalg"])
def test_import_does_not_load(module):
    """It would take as long as all of fmfast, or several times as long."""
    script = f"import sys, scipy.sparse; sys.modules.pop({module!r}, None); import fmfast"
    assert run(f"{script}; print({module!r} in sys.modules)") == "False"


def test_exceptions_are_those_of_scikit_learn_once_it_is_imported():
    pytest.importorskip("sklearn")
    script = """if True:
        import fmfast, sklearn.exceptions
        try:
            fmfast.FMRegressor().predict([[1.0]])
        except sklearn.exceptions.NotFittedError:
            print("theirs")
    """
    assert run(script) == "theirs"
