"""The extension modules and their compiler flags; everything else stands in pyproject.toml.

Environment variables, 1 for yes:
    FMFAST_DEBUG        checks of bounds and of overflow, no optimisation
    FMFAST_SANITIZE     "address,undefined": the sanitizers of GCC or Clang (CONTRIBUTING.md says how)
    FMFAST_COVERAGE     lines of Cython are seen by coverage; slow, portable kernels only
    FMFAST_LIMITED_API  one build for all Pythons from 3.11 on, a little slower per call (see bench/README.md)
    FMFAST_PORTABLE     no kernels for x86-64-v3 and v4, as on other processors
"""

import os
import re
import sys
import sysconfig
from pathlib import Path

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
SANITIZE = os.environ.get("FMFAST_SANITIZE", "")
COVERAGE = asked_for("COVERAGE")
LIMITED_API = asked_for("LIMITED_API")
OPTIMIZED = not (DEBUG or SANITIZE or COVERAGE)

LINK_FLAGS = []
if sys.platform == "win32":
    FLAGS = ["/O2"] if OPTIMIZED else ["/Od", "/Zi"]
    INLINE = "__forceinline"
    LEVELS = {"v3": ["/arch:AVX2"], "v4": ["/arch:AVX512"]}
else:
    # NaN and infinity keep their meaning (no -ffast-math). Sums may be reordered, which lets the
    # compiler vectorise the reductions over the factors; nothing here reads errno or traps.
    FLAGS = ["-O3", "-g0"] if OPTIMIZED else ["-O0", "-g"]
    FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
    INLINE = "inline __attribute__((always_inline))"
    # A macOS build may be for two processors at a time: only one of them has the instruction sets.
    only = ["-Xarch_x86_64"] if sys.platform == "darwin" else []
    LEVELS = {level: [*only, f"-march=x86-64-{level}"] for level in ("v3", "v4")}
    if sys.platform.startswith("linux") and not DEBUG:
        # GCC unrolls loops of up to 16 rounds before it vectorises them, and then fails to: 8 and 16
        # factors took longer than 32. Clang and others ignore what they do not know.
        FLAGS += ["--param=max-completely-peel-times=7"]
    if SANITIZE:
        # The first fault ends the process: one that is only printed would be overlooked. Python's own -fwrapv
        # would allow signed integers to overflow; only -O3 makes of -fassociative-math what the tests expect.
        LINK_FLAGS = [f"-fsanitize={SANITIZE}"]
        FLAGS += [*LINK_FLAGS, "-fno-sanitize-recover=all", "-fno-wrapv", "-fno-associative-math"]
        FLAGS += ["-O1", "-fno-omit-frame-pointer"]

if COVERAGE or asked_for("PORTABLE") or not is_for_x86_64():
    LEVELS = {}

MACROS = []
if OPTIMIZED:
    MACROS += [("FMFAST_INLINE", INLINE)]  # see `with_forced_inlining`
if LEVELS:
    MACROS += [("FMFAST_LEVELS", "1")]  # read by _cpu.pyx
if LIMITED_API:
    MACROS += [("Py_LIMITED_API", "0x030B0000")]
if COVERAGE:
    MACROS += [("CYTHON_TRACE_NOGIL", "1")]

# Here, and not on top of each file, where they could not be changed from outside. No index is ever negative,
# so that wraparound would only hide an error from the check of bounds.
DIRECTIVES = {
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "wraparound": False,
    "linetrace": COVERAGE,
}


def extension(name, flags=()):
    return Extension(
        f"fmfast.{name}",
        [f"fmfast/{name}.pyx"],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=LINK_FLAGS,
        define_macros=MACROS,
        py_limited_api=LIMITED_API,
    )


def with_forced_inlining(extensions):
    """In the C that Cython has made, have our inline functions inlined wherever they are called.

    Only then is the number of factors a constant in the loops, and the factor sums stay in registers. Not
    those of Cython's own that are CYTHON_INLINE too: some are recursive, which no compiler can inline.
    """
    for path in (Path(source) for made in extensions for source in made.sources):
        if not OPTIMIZED or path.suffix != ".c":
            continue
        code = path.read_text(encoding="utf-8")
        forced = re.sub(
            r"^static CYTHON_INLINE (?=.*\b__pyx\w*_f_)", "static FMFAST_INLINE ", code, flags=re.M
        )
        if forced != code:
            path.write_text(forced, encoding="utf-8")
    return extensions


PORTABLE = ("_csr", "_cpu", "_decimal", "_text")
BY_LEVEL = ("_core", "_coordinate", "_ranking", "_table")  # built for the baseline and for every level

extensions = [extension(name) for name in (*BY_LEVEL, *PORTABLE)]
extensions += [extension(f"{name}_{level}", flags) for name in BY_LEVEL for level, flags in LEVELS.items()]
extensions = cythonize(
    extensions,
    compiler_directives=DIRECTIVES,
    force=not OPTIMIZED,  # Cython does not see that directives have changed
)

options = {"build_ext": {"parallel": os.cpu_count() or 1}}  # the compiler takes most of the time
if LIMITED_API:
    options["bdist_wheel"] = {"py_limited_api": "cp311"}

setup(ext_modules=with_forced_inlining(extensions), options=options)
