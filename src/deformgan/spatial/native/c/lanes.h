/* Vectors of single precision, as the compiler knows them, and the product that the network's kernels are made of. */
#ifndef DEFORMGAN_LANES_H
#define DEFORMGAN_LANES_H

#include "common.h"

/* Rows of a product that are held in registers, and floats in one of these. */
#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 12 };
#else
enum { LANES = 8, ROWS = 6 };
#endif
/* Output channels are computed 16 at a time, and input channels are filled up with zeros to as many. */
enum { BLOCK = 16, VECTORS = BLOCK / LANES };

typedef float lanes __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t mask __attribute__((vector_size(4 * LANES), aligned(4)));

/* (ROWS, K) × (K, 16) → (ROWS, 16). Element (r, k) of the first is a[r * row + k * column]. */
static inline __attribute__((always_inline)) void product(const float *restrict a, int64_t row, int64_t column,
                                                          const float *restrict b, int64_t K, float *restrict out) {
    lanes sums[ROWS][VECTORS];
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
        for (int v = 0; v < VECTORS; v++) sums[r][v] = (lanes){0};
    for (int64_t k = 0; k < K; k++) {
        lanes right[VECTORS];
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) right[v] = *(const lanes *)(b + BLOCK * k + LANES * v);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
            for (int v = 0; v < VECTORS; v++) sums[r][v] += a[r * row + k * column] * right[v];
    }
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) *(lanes *)(out + BLOCK * r + LANES * v) = sums[r][v];
}

/* What is below 0 is multiplied with the slope. */
static inline __attribute__((always_inline)) lanes activated(lanes value, float slope) {
    mask above = value > 0;
    return (lanes)((above & (mask)value) | (~above & (mask)(slope * value)));
}

#endif
