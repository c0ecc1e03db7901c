"""The extension modules and their compiler flags; everything else stands in pyproject.toml.

FMFAST_DEBUG=1 builds with bounds checks and without optimisation.
"""

import os
import platform
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("FMFAST_DEBUG", "0") not in ("", "0")
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


def extension(name, flags=()):
    return Extension(
        f"fmfast.{name}", [f"fmfast/{name}.pyx"], extra_compile_args=[*FLAGS, *flags], define_macros=MACROS
    )


PORTABLE = ("_csr", "_cpu", "_decimal", "_text")
BY_LEVEL = ("_core", "_coordinate", "_ranking", "_table")  # built for the baseline and for every level

extensions = [extension(name) for name in (*BY_LEVEL, *PORTABLE)]
if X86_64:
    extensions += [
        extension(f"{name}_{level}", flags) for name in BY_LEVEL for level, flags in LEVELS.items()
    ]

setup(
    ext_modules=cythonize(
        extensions, compiler_directives={"boundscheck": True, "cdivision": False} if DEBUG else {}
    ),
    # The compiler takes most of the time, one process per module.
    options={"build_ext": {"parallel": os.cpu_count() or 1}},
)
