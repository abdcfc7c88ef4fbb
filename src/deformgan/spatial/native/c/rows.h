/* Weighted sums of rows of floats, with the sums in registers. */
#ifndef DEFORMGAN_ROWS_H
#define DEFORMGAN_ROWS_H

#include "common.h"

/* Eight floats anywhere in memory; where the processor has no such registers, the compiler takes several. */
typedef float dg_eight __attribute__((vector_size(32), aligned(4), may_alias));

enum { DG_ROWS = 32 }; /* summed at once */

/* out = (add ? out : 0) + sum of weights[k] * rows[k], n floats each. */
static inline void dg_sum_rows(float *out, const float *const *rows, const float *weights, int count, int add,
                               int64_t n) {
    int64_t x = 0;
    for (; x + 32 <= n; x += 32) {
        dg_eight *to = (dg_eight *)(out + x), a = {0}, b = {0}, c = {0}, d = {0};
        if (add) a = to[0], b = to[1], c = to[2], d = to[3];
        for (int k = 0; k < count; k++) {
            const dg_eight *from = (const dg_eight *)(rows[k] + x);
            float w = weights[k];
            a += w * from[0];
            b += w * from[1];
            c += w * from[2];
            d += w * from[3];
        }
        to[0] = a, to[1] = b, to[2] = c, to[3] = d;
    }
    for (; x + 8 <= n; x += 8) {
        dg_eight *to = (dg_eight *)(out + x), a = {0};
        if (add) a = *to;
        for (int k = 0; k < count; k++) a += weights[k] * *(const dg_eight *)(rows[k] + x);
        *to = a;
    }
    for (; x < n; x++) {
        float sum = add ? out[x] : 0;
        for (int k = 0; k < count; k++) sum += weights[k] * rows[k][x];
        out[x] = sum;
    }
}

/* Item i of the weighted sums of `count` items of n floats, `apart` floats from one to the next.
 *
 * kernel: radius + 1 weights, the middle first, NULL for 1; repeat: the border item goes on outside, else nothing lies
 * there. */
static inline void dg_sum_items(float *out, const float *items, int64_t apart, int64_t i, int64_t count,
                                const float *kernel, int64_t radius, int64_t repeat, int64_t n) {
    const float *rows[DG_ROWS];
    float weights[DG_ROWS];
    int filled = 0, begun = 0;
    for (int64_t k = -radius; k <= radius; k++) {
        int64_t at = i + k;
        if (!repeat && (at < 0 || at >= count)) continue;
        rows[filled] = items + dg_min(dg_max(at, 0), count - 1) * apart;
        weights[filled] = kernel ? kernel[k < 0 ? -k : k] : 1;
        if (++filled == DG_ROWS) {
            dg_sum_rows(out, rows, weights, filled, begun, n);
            begun = 1, filled = 0;
        }
    }
    if (filled || !begun) dg_sum_rows(out, rows, weights, filled, begun, n);
}

/* The same along a row of W floats. */
static inline void dg_sum_along(float *out, const float *row, const float *kernel, int64_t radius, int64_t repeat,
                                int64_t W) {
    float line[4096];
    if (W + 2 * radius > (int64_t)(sizeof line / sizeof *line)) {
        for (int64_t x = 0; x < W; x++) {
            float sum = 0;
            for (int64_t k = -radius; k <= radius; k++)
                if (repeat || (x + k >= 0 && x + k < W))
                    sum += (kernel ? kernel[k < 0 ? -k : k] : 1) * row[dg_min(dg_max(x + k, 0), W - 1)];
            out[x] = sum;
        }
        return;
    }
    for (int64_t x = 0; x < radius; x++) {
        line[x] = repeat ? row[0] : 0;
        line[radius + W + x] = repeat ? row[W - 1] : 0;
    }
    memcpy(line + radius, row, (size_t)W * sizeof(float));
    /* the middle of so many rows, each a voxel further on */
    dg_sum_items(out, line, 1, radius, 2 * radius + 1, kernel, radius, repeat, W);
}

/* Window sums in one plane, along y and x, of the rows that are needed (NULL: all); `line` has room for W. */
static inline void dg_box_plane(const float *in, float *out, int64_t H, int64_t W, int64_t r, float *line,
                                const uint8_t *needed) {
    for (int64_t y = 0; y < H; y++) {
        if (needed && !needed[y]) continue;
        dg_sum_items(line, in, W, y, H, NULL, r, 0, W);
        dg_sum_along(out + y * W, line, NULL, r, 0, W);
    }
}

#endif
