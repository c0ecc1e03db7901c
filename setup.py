"""The extension modules and their compiler flags; everything else stands in pyproject.toml.

FMFAST_DEBUG=1 builds with checks of bounds and of overflow, and without optimisation.
FMFAST_SANITIZE=address,undefined builds with the sanitizers of GCC or Clang (see CONTRIBUTING.md).
"""

import os
import platform
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FMFAST_DEBUG", "0") not in ("", "0")
SANITIZE = os.environ.get("FMFAST_SANITIZE", "")
X86_64 = platform.machine().lower() in ("x86_64", "amd64")

if sys.platform == "win32":
    FLAGS = ["/Od", "/Zi"] if DEBUG else ["/O2"]
    MACROS = []
    LEVELS = {"v3": ["/arch:AVX2"], "v4": ["/arch:AVX512"]}
else:
    # NaN and infinity keep their meaning (no -ffast-math). Sums may be reordered, which lets the
    # compiler vectorise the reductions over the factors; nothing here reads errno or traps.
    FLAGS = ["-O0", "-g"] if DEBUG else ["-O3", "-g0"]
    FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math"]
    # Small functions must be inlined even where the compiler finds them large: only then is the
    # number of factors a constant in the loops, and the factor sums stay in registers.
    MACROS = [] if DEBUG else [("CYTHON_INLINE", "inline __attribute__((always_inline))")]
    LEVELS = {"v3": ["-march=x86-64-v3"], "v4": ["-march=x86-64-v4"]}
    if sys.platform.startswith("linux") and not DEBUG:
        # GCC unrolls loops of up to 16 rounds before it vectorises them, and then fails to: 8 and 16
        # factors took longer than 32. Clang and others ignore what they do not know.
        FLAGS += ["--param=max-completely-peel-times=7"]

LINK_FLAGS = []
if SANITIZE:
    # The first fault ends the process: one that is only printed would be overlooked. Python's own -fwrapv
    # would allow signed integers to overflow; only -O3 makes of -fassociative-math what the tests expect.
    LINK_FLAGS = [f"-fsanitize={SANITIZE}"]
    FLAGS += [*LINK_FLAGS, "-fno-sanitize-recover=all", "-fno-wrapv", "-fno-associative-math"]
    FLAGS += ["-O1", "-g", "-fno-omit-frame-pointer"]
    MACROS = []

# Here, and not on top of each file, where they could not be changed from outside. No index is ever negative,
# so that wraparound would only hide an error from the check of bounds.
DIRECTIVES = {
    "boundscheck": DEBUG,
    "initializedcheck": DEBUG,
    "overflowcheck": DEBUG,
    "wraparound": False,
}


def extension(name, flags=()):
    return Extension(
        f"fmfast.{name}",
        [f"fmfast/{name}.pyx"],
        extra_compile_args=[*FLAGS, *flags],
        extra_link_args=LINK_FLAGS,
        define_macros=MACROS,
    )


PORTABLE = ("_csr", "_cpu", "_decimal", "_text")
BY_LEVEL = ("_core", "_coordinate", "_table")  # built for the baseline and for every level

extensions = [extension(name) for name in (*BY_LEVEL, *PORTABLE)]
if X86_64:
    extensions += [
        extension(f"{name}_{level}", flags) for name in BY_LEVEL for level, flags in LEVELS.items()
    ]

setup(
    ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, force=DEBUG),
    # The compiler takes most of the time, one process per module.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
