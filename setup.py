"""The extension modules and their compiler flags; everything else stands in pyproject.toml.

Environment variables, each 1 for yes:
    FMFAST_DEBUG        bounds checks, no optimisation
    FMFAST_COVERAGE     what `coverage` needs to see lines of Cython; slow, portable kernels only
    FMFAST_LIMITED_API  one build for all Pythons from 3.11 on, a little slower per call (see bench/README.md)
    FMFAST_PORTABLE     no kernels for x86-64-v3 and v4, as on other processors
"""

import os
import sys
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup


def asked_for(name):
    return os.environ.get(f"FMFAST_{name}", "0") not in ("", "0")


def is_for_x86_64():
    """Whether code for x86-64 will be built, here or by a cross-compiler; among others, on macOS."""
    platform = sysconfig.get_platform()  # of the Python that is built for, which cibuildwheel sets
    if sys.platform == "darwin" and "ARCHFLAGS" in os.environ:
        platform = os.environ["ARCHFLAGS"]
    return any(name in platform for name in ("x86_64", "amd64", "universal2"))


DEBUG = asked_for("DEBUG")
COVERAGE = asked_for("COVERAGE")
LIMITED_API = asked_for("LIMITED_API")
LEVELS = {}  # instruction sets, with what tells the compiler

if sys.platform == "win32":
    FLAGS = ["/Od", "/Zi"] if DEBUG else ["/O2"]
    MACROS = []
    LEVELS = {"v3": ["/arch:AVX2"], "v4": ["/arch:AVX512"]}
else:
    # NaN and infinity keep their meaning (no -ffast-math). Sums may be reordered, which lets the
    # compiler vectorise the reductions over the factors; nothing here reads errno or traps.
    FLAGS = ["-O0", "-g"] if DEBUG or COVERAGE else ["-O3", "-g0"]
    FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
    # Small functions must be inlined even where the compiler finds them large: only then is the
    # number of factors a constant in the loops, and the factor sums stay in registers.
    MACROS = [] if DEBUG or COVERAGE else [("CYTHON_INLINE", "inline __attribute__((always_inline))")]
    # A macOS build may be for two processors at a time: only one of them has the instruction sets.
    only = ["-Xarch_x86_64"] if sys.platform == "darwin" else []
    LEVELS = {level: [*only, f"-march=x86-64-{level}"] for level in ("v3", "v4")}
    if sys.platform.startswith("linux") and not DEBUG:
        # GCC unrolls loops of up to 16 rounds before it vectorises them, and then fails to: 8 and 16
        # factors took longer than 32. Clang and others ignore what they do not know.
        FLAGS += ["--param=max-completely-peel-times=7"]

if COVERAGE or asked_for("PORTABLE") or not is_for_x86_64():
    LEVELS = {}
if LEVELS:
    MACROS += [("FMFAST_LEVELS", "1")]  # read by _cpu.pyx
if LIMITED_API:
    MACROS += [("Py_LIMITED_API", "0x030B0000")]
if COVERAGE:
    MACROS += [("CYTHON_TRACE_NOGIL", "1")]


def extension(name, flags=()):
    return Extension(
        f"fmfast.{name}",
        [f"fmfast/{name}.pyx"],
        extra_compile_args=[*FLAGS, *flags],
        define_macros=MACROS,
        py_limited_api=LIMITED_API,
    )


PORTABLE = ("_csr", "_cpu", "_decimal", "_text")
BY_LEVEL = ("_core", "_coordinate", "_table")  # built for the baseline and for every level

extensions = [extension(name) for name in (*BY_LEVEL, *PORTABLE)]
extensions += [extension(f"{name}_{level}", flags) for name in BY_LEVEL for level, flags in LEVELS.items()]

directives = {"linetrace": True} if COVERAGE else {}
if DEBUG:
    directives |= {"boundscheck": True, "cdivision": False}

options = {"build_ext": {"parallel": os.cpu_count() or 1}}  # the compiler takes most of the time
if LIMITED_API:
    options["bdist_wheel"] = {"py_limited_api": "cp311"}

setup(ext_modules=cythonize(extensions, compiler_directives=directives), options=options)
