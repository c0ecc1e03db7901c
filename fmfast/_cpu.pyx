# cython: language_level=3
"""What the CPU can do: the highest x86-64 level that the kernels are built for.

`setup.py` defines FMFAST_LEVELS where it builds them for levels.
"""

cdef extern from *:
    """
    #if !defined(FMFAST_LEVELS)
    static int fmfast_cpu_level(void) { return 0; }
    #elif (defined(__GNUC__) || defined(__clang__)) && defined(__x86_64__)
    static int fmfast_cpu_level(void) {
        __builtin_cpu_init();
        if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
              && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))) return 1;
        if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
              && __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq")
              && __builtin_cpu_supports("avx512vl"))) return 3;
        return 4;
    }
    #elif defined(_MSC_VER) && defined(_M_X64)
    #include <windows.h>
    static int fmfast_cpu_level(void) {
        /* PF_AVX2_INSTRUCTIONS_AVAILABLE = 40, PF_AVX512F_INSTRUCTIONS_AVAILABLE = 41. Every CPU
           with AVX2 that Windows supports has FMA and BMI too; AVX-512F alone does not imply the
           rest of level 4, so level 3 is the most that is chosen here. */
        return IsProcessorFeaturePresent(40) ? 3 : 1;
    }
    #else
    static int fmfast_cpu_level(void) { return 0; }
    #endif
    """
    int fmfast_cpu_level() noexcept nogil


def x86_64_level():
    """4, 3 or 1 on x86-64 (level 2 has no build of its own); 0 elsewhere, and where there is one build only."""
    return fmfast_cpu_level()
