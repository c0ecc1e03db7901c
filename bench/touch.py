"""The touch kernel of `_touch.pyx`, compiled when it is first needed with the flags of the kernels in use."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import numpy as np
import setuptools
from Cython.Build import cythonize
from setuptools.command.build_ext import build_ext

from bench import build
from bench.environment import ROOT
from bench.programs import FMFast
from bench.timing import repeated
from fmfast import _dispatch
from fmfast.solvers.sgd import N_LANES


class Touch:
    """Epochs of the touch kernel over the rows and in the table of an `FMFast`."""

    def __init__(self, program: FMFast) -> None:
        rows = program.rows
        if len(rows.data) or rows.indices.dtype != np.int32:
            raise ValueError("the touch kernel takes rows of ones with int32 indices")
        self._program = program
        self._touch_rows = compiled(_dispatch.level).touch_rows
        self._epoch = 0
        self.train = repeated(self._run_epoch)

    def _run_epoch(self) -> None:
        p, rows = self._program, self._program.rows
        runs, run_length = p.order(rows.n_samples, rows.nnz, p.seed, self._epoch)
        self._touch_rows(rows.indices, rows.indptr, p.y, runs, run_length, N_LANES, p.table.rows[0], 0)
        self._epoch += 1


@cache
def compiled(level: str) -> ModuleType:
    """The module, built for one level in a folder that does not outlive this function."""
    like = build.extension_like_core(level)
    extension = setuptools.Extension(
        "_touch",
        [str(ROOT / "bench" / "_touch.pyx")],
        extra_compile_args=like.extra_compile_args,
        define_macros=like.define_macros,
    )
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        extensions = build.with_forced_inlining(
            cythonize([extension], include_path=[str(ROOT)], build_dir=folder, quiet=True)
        )
        command = build_ext(setuptools.Distribution({"name": "_touch", "ext_modules": extensions}))
        command.build_lib, command.build_temp = folder, folder
        command.ensure_finalized()
        command.run()
        return _loaded(Path(command.get_ext_fullpath("_touch")))


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_touch", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
