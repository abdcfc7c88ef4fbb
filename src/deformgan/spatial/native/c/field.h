/* A displacement field on a grid, interpolated from a coarser one, and where it leads in another image. */
#ifndef DEFORMGAN_FIELD_H
#define DEFORMGAN_FIELD_H

#include "common.h"

/* Linear interpolation along an axis: sample i is (1 - t[i]) source[below[i]] + t[i] source[above[i]]. */
typedef struct {
    const int32_t *below, *above;
    const float *t;
    /* its transpose: source k goes to the samples first[k] .. last[k] - 1 */
    const int32_t *first, *last;
} axis_map;

/* How much of sample x of the fine axis is the coarse axis's sample k. */
static inline float field_share(const axis_map *axis, int64_t x, int64_t k) {
    return (axis->below[x] == k ? 1 - axis->t[x] : 0) + (axis->above[x] == k ? axis->t[x] : 0);
}

typedef struct {
    int64_t shape[3];    /* D, H, W of the fine grid */
    int64_t coarse[3];   /* d, h, w */
    axis_map axes[3];    /* from the coarse to the fine grid */
    float scale[3];      /* voxels of the fine grid in one coarse voxel */
    const float *values; /* (3, d, h, w), coarse voxels */
    float *lines;        /* (3, d, h, W) working memory; NULL where both grids are the same */
    int64_t target[3];   /* of the image that the field leads to */
    float offset;        /* added to every index of that image, which may have a border of so many voxels */
} coarse_field;

/* Widen all lines of one coarse plane and component along the last axis: (d, 3) indices in all. */
static inline void field_widen(const coarse_field *field, int64_t index) {
    int64_t component = index / field->coarse[0], h = field->coarse[1], w = field->coarse[2], W = field->shape[2];
    const axis_map *axis = &field->axes[2];
    const float *source = field->values + index * h * w;
    float *out = field->lines + index * h * W, scale = field->scale[component];
    for (int64_t y = 0; y < h; y++, source += w, out += W)
        for (int64_t x = 0; x < W; x++) {
            float a = source[axis->below[x]], b = source[axis->above[x]];
            out[x] = scale * (a + axis->t[x] * (b - a));
        }
}

/* Three coarse planes of lines; component c is at plane + c * stride. */
typedef struct {
    const float *plane;
    int64_t stride;
} field_plane;

/* The coarse lines of fine plane z; `memory` has room for (3, h, W). */
static inline field_plane field_at(const coarse_field *field, int64_t z, float *memory) {
    const axis_map *axis = &field->axes[0];
    int64_t size = field->coarse[1] * field->shape[2], volume = field->coarse[0] * size;
    if (!field->lines) {
        field_plane own = {field->values + z * size, volume};
        return own;
    }
    float t = axis->t[z];
    for (int64_t c = 0; c < 3; c++) {
        const float *a = field->lines + c * volume + axis->below[z] * size;
        const float *b = field->lines + c * volume + axis->above[z] * size;
        float *restrict out = memory + c * size;
        for (int64_t i = 0; i < size; i++) out[i] = a[i] + t * (b[i] - a[i]);
    }
    field_plane made = {memory, size};
    return made;
}

/* Where the voxels from .. from + n - 1 of row (z, y) come from: the index of the first of eight voxels of the target
 * and how far behind it (0 to 1) along each axis. Beyond the target its border is meant. */
static inline void field_locate(const coarse_field *field, field_plane low, int64_t z, int64_t y, int64_t from,
                                int64_t n, int32_t *restrict at, float *restrict fz, float *restrict fy,
                                float *restrict fx) {
    const axis_map *axis = &field->axes[1];
    int64_t W = field->shape[2];
    const float *above = low.plane + axis->above[y] * W + from, *below = low.plane + axis->below[y] * W + from;
    const float *restrict a0 = below, *restrict a1 = below + low.stride, *restrict a2 = below + 2 * low.stride;
    const float *restrict b0 = above, *restrict b1 = above + low.stride, *restrict b2 = above + 2 * low.stride;
    float t = axis->t[y], start_z = (float)z + field->offset, start_y = (float)y + field->offset,
          start_x = (float)from + field->offset;
    int32_t sizes[3] = {(int32_t)field->target[0], (int32_t)field->target[1], (int32_t)field->target[2]};
    int32_t last_z = sizes[0] > 1 ? sizes[0] - 2 : 0, last_y = sizes[1] > 1 ? sizes[1] - 2 : 0,
            last_x = sizes[2] > 1 ? sizes[2] - 2 : 0;
    float end_z = (float)(sizes[0] - 1), end_y = (float)(sizes[1] - 1), end_x = (float)(sizes[2] - 1);
    for (int64_t x = 0; x < n; x++) {
        float pz = dg_clamp(start_z + (a0[x] + t * (b0[x] - a0[x])), 0, end_z);
        float py = dg_clamp(start_y + (a1[x] + t * (b1[x] - a1[x])), 0, end_y);
        float px = dg_clamp(start_x + (float)(int32_t)x + (a2[x] + t * (b2[x] - a2[x])), 0, end_x);
        int32_t iz = (int32_t)pz, iy = (int32_t)py, ix = (int32_t)px;
        iz = iz < last_z ? iz : last_z;
        iy = iy < last_y ? iy : last_y;
        ix = ix < last_x ? ix : last_x;
        fz[x] = pz - (float)iz;
        fy[x] = py - (float)iy;
        fx[x] = px - (float)ix;
        at[x] = (iz * sizes[1] + iy) * sizes[2] + ix;
    }
}

#endif
