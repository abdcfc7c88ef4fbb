/* The exponential function of rows of floats. */
#ifndef DEFORMGAN_EXPONENTIAL_H
#define DEFORMGAN_EXPONENTIAL_H

#include "rows.h"

typedef int32_t dg_eight_whole __attribute__((vector_size(32)));

/* e^x for x ≤ 0, to about one unit in the last place; below -87 it is about 1e-38.
 *
 * In vectors by hand: compilers see that what is below is all alike, and branch. */
static inline dg_eight dg_exponential_eight(dg_eight x) {
    const dg_eight zero = {0}, lowest = zero - 87.0f;
    dg_eight_whole above = x > lowest;
    x = (dg_eight)(((dg_eight_whole)x & above) | ((dg_eight_whole)lowest & ~above));
    dg_eight_whole whole = __builtin_convertvector(x * 1.44269504f - 0.5f, dg_eight_whole);
    dg_eight n = __builtin_convertvector(whole, dg_eight);
    dg_eight r = x - n * 0.693359375f + n * 2.12194440e-4f;
    dg_eight p = zero + 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (dg_eight)((whole + 127) << 23);
}

/* out = e^(scale (in - top)), of n floats; no value of it is above 1. */
static inline void dg_exponentials(float *out, const float *in, float top, float scale, int64_t n) {
    int64_t x = 0;
    for (; x + 8 <= n; x += 8)
        *(dg_eight *)(out + x) = dg_exponential_eight((*(const dg_eight *)(in + x) - top) * scale);
    if (x == n) return;
    float rest[8] = {0};
    memcpy(rest, in + x, (size_t)(n - x) * sizeof(float));
    dg_eight found = dg_exponential_eight((*(const dg_eight *)rest - top) * scale);
    memcpy(out + x, &found, (size_t)(n - x) * sizeof(float));
}

#endif
