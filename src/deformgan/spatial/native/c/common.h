/* What every kernel shares: the names of its variants, the thread pool, small helpers.
 *
 * Each file of kernels is compiled once for every instruction set (see build.py), with DG_SUFFIX telling the variants
 * apart; cpu.c says which one a processor runs.
 */
#ifndef DEFORMGAN_COMMON_H
#define DEFORMGAN_COMMON_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define DG_JOIN_(a, b) a##b
#define DG_JOIN(a, b) DG_JOIN_(a, b)
#ifndef DG_SUFFIX
#define DG_SUFFIX _base
#endif
#define DG_NAME(name) DG_JOIN(name, DG_SUFFIX)

#if defined(_WIN32)
#define DG_EXPORT __declspec(dllexport)
#else
#define DG_EXPORT __attribute__((visibility("default")))
#endif

typedef void (*dg_work)(void *context, int64_t index);

/* Call work(context, i) for every i below count, on at most `threads` threads, this one among them. */
void dg_parallel(dg_work work, void *context, int64_t count, int64_t threads);

static inline int64_t dg_max(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t dg_min(int64_t a, int64_t b) { return a < b ? a : b; }

/* Between both limits; NaN becomes the lower one, so what is made an index never leaves the volume. */
static inline float dg_clamp(float x, float low, float high) {
    float above = x > low ? x : low;
    return above < high ? above : high;
}

#endif
