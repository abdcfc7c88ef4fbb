/* Which of the compiled variants this processor runs, and which interface this library has. */
#include "common.h"

#define DG_INTERFACE 8

DG_EXPORT int dg_interface(void) { return DG_INTERFACE; }

/* 4, 3 or 1: the levels of the x86-64 ABI for which there are variants; 1 also on other processors. */
DG_EXPORT int dg_level(void) {
#if defined(__x86_64__) && !defined(DG_BASE_ONLY)
    __builtin_cpu_init();
    int v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    int v4 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
    return v3 ? (v4 ? 4 : 3) : 1;
#else
    return 1;
#endif
}
