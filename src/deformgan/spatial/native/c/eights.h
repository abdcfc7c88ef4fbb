/* An image and its derivatives at eight places at once, by linear interpolation. */
#ifndef DEFORMGAN_EIGHTS_H
#define DEFORMGAN_EIGHTS_H

#include "rows.h"

enum { EIGHT = 8 }; /* voxels that are computed at once */

/* Voxels of a row to compute for `n` from `from` on: whole eights, as far as the row goes. */
static inline int64_t in_eights(int64_t n, int64_t from, int64_t W) {
    return dg_min((n + EIGHT - 1) / EIGHT * EIGHT, W - from);
}

/* Whether eight voxels come from eight that lie side by side: most do, for a field is smooth. */
static inline int side_by_side(const int32_t *at) {
    int32_t other = 0;
    for (int i = 0; i < EIGHT; i++) other |= at[i] ^ (at[0] + i);
    return !other;
}

typedef int64_t pairs __attribute__((vector_size(32))); /* four voxels, each with the next */

/* Of each pair of floats the first (k = 0) or the second (k = 1), in the order of `take_eight`. */
#if defined(__clang__) || __GNUC__ >= 12
#define PICK(a, b, k) __builtin_shufflevector(a, b, k, k + 2, k + 8, k + 10, k + 4, k + 6, k + 12, k + 14)
#else
typedef int32_t places __attribute__((vector_size(32)));
#define PICK(a, b, k) __builtin_shuffle(a, b, (places){k, k + 2, k + 8, k + 10, k + 4, k + 6, k + 12, k + 14})
#endif

static inline int64_t pair_at(const float *from, int32_t at) {
    int64_t pair;
    memcpy(&pair, from + at, sizeof pair);
    return pair;
}

/* Eight voxels, and the steps from each to the next. */
static inline __attribute__((always_inline)) void take_eight(const float *from, const int32_t *at, int beside,
                                                             dg_eight *first, dg_eight *step) {
    if (beside) {
        *first = *(const dg_eight *)(from + at[0]);
        *step = *(const dg_eight *)(from + at[0] + 1) - *first;
        return;
    }
    pairs a = {pair_at(from, at[0]), pair_at(from, at[1]), pair_at(from, at[4]), pair_at(from, at[5])};
    pairs b = {pair_at(from, at[2]), pair_at(from, at[3]), pair_at(from, at[6]), pair_at(from, at[7])};
    *first = PICK((dg_eight)a, (dg_eight)b, 0);
    *step = PICK((dg_eight)a, (dg_eight)b, 1) - *first;
}

/* The image and its derivatives by z, y and x at eight places. */
static inline __attribute__((always_inline)) void sample_eight(const float *image, int64_t row, int64_t plane,
                                                               const int32_t *at, dg_eight fz, dg_eight fy,
                                                               dg_eight fx, float *const found[4]) {
    dg_eight p000, p010, p100, p110, d00, d01, d10, d11;
    int beside = side_by_side(at);
    take_eight(image, at, beside, &p000, &d00);
    take_eight(image + row, at, beside, &p010, &d01);
    take_eight(image + plane, at, beside, &p100, &d10);
    take_eight(image + plane + row, at, beside, &p110, &d11);
    dg_eight l00 = p000 + fx * d00, l01 = p010 + fx * d01, l10 = p100 + fx * d10, l11 = p110 + fx * d11;
    dg_eight e0 = l01 - l00, e1 = l11 - l10;
    dg_eight m0 = l00 + fy * e0, m1 = l10 + fy * e1;
    dg_eight s0 = d00 + fy * (d01 - d00), s1 = d10 + fy * (d11 - d10);
    *(dg_eight *)found[0] = m0 + fz * (m1 - m0);
    *(dg_eight *)found[1] = m1 - m0;
    *(dg_eight *)found[2] = e0 + fz * (e1 - e0);
    *(dg_eight *)found[3] = s0 + fz * (s1 - s0);
}

/* The same at fewer than eight places, of which there is room for no more. */
static inline void sample_rest(const float *image, int64_t row, int64_t plane, const int32_t *at,
                               const float *fz, const float *fy, const float *fx, int64_t n, float *const found[4]) {
    float share[3][EIGHT] = {{0}}, made[4][EIGHT];
    float *const into[4] = {made[0], made[1], made[2], made[3]};
    int32_t where[EIGHT];
    for (int64_t i = 0; i < EIGHT; i++) where[i] = at[dg_min(i, n - 1)];
    for (int64_t i = 0; i < n; i++) share[0][i] = fz[i], share[1][i] = fy[i], share[2][i] = fx[i];
    sample_eight(image, row, plane, where, *(const dg_eight *)share[0], *(const dg_eight *)share[1],
                 *(const dg_eight *)share[2], into);
    for (int k = 0; k < 4; k++) memcpy(found[k], made[k], (size_t)n * sizeof(float));
}

#endif
