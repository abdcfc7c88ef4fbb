/* The squared normalised-gradient similarity of a warped image and its gradient with respect to a coarse field.
 *
 * One pass over the planes of the fixed grid: the field of a plane is interpolated from the coarse one, the moving
 * image is sampled there with its spatial gradient, the plane before is compared with the fixed image's edges, and the
 * one before that receives the derivative, which is collected on the rows of the coarse field. Whatever is kept for
 * this are a few planes, which stay in the cache. A second pass collects the rows into coarse planes.
 *
 * Planes are computed alike whichever thread does it, and sums are taken in the order of the planes: the result is
 * the same bits for any number of threads.
 */
#include "field.h"
#include "rows.h"

typedef struct {
    coarse_field field;      /* from the fixed image's grid to the moving image with two voxels of 0 around */
    const float *directions; /* (3, D, H, W) the fixed image's unit gradients times the root of the weight */
    const float *moving;     /* with these two voxels */
    const int32_t *spans;    /* (D, H, 2) where a row of directions is not 0: first, and one past the last */
    const int32_t *reach;    /* (D, H, 2) the same for the voxels that the comparison looks at */
    float floor;             /* noise: added to the squared length of undivided differences */
    float *gradient;         /* (3, d, h, w) */
    float *rows;             /* (D, 3, h, W) working memory */
    double *totals;          /* (D) working memory */
    float *scratch;          /* working memory, one share for each part of the planes */
    int64_t chunk;           /* planes that are one part */
    int64_t threads;
} similarity_job;

enum { RING = 3 }; /* planes that are kept of each kind */

/* One part's working memory. Planes of weights have room before and after, for the neighbours of the border. */
typedef struct {
    float *image[RING], *along[RING][3], *weights[RING][3], *between, *work;
} part_memory;

static int64_t part_floats(const similarity_job *job) {
    int64_t W = job->field.shape[2], plane = job->field.shape[1] * W;
    return RING * (4 * plane + 3 * (plane + 2 * W)) + 3 * job->field.coarse[1] * W + 4 * W + 16;
}

static part_memory divide(const similarity_job *job, float *memory) {
    int64_t W = job->field.shape[2], plane = job->field.shape[1] * W;
    part_memory part;
    memset(memory, 0, (size_t)part_floats(job) * sizeof(float));
    for (int i = 0; i < RING; i++) {
        part.image[i] = memory, memory += plane;
        for (int c = 0; c < 3; c++) {
            part.along[i][c] = memory, memory += plane;
            part.weights[i][c] = memory + W, memory += plane + 2 * W;
        }
    }
    part.between = memory, memory += 3 * job->field.coarse[1] * W;
    part.work = memory;
    return part;
}

static int slot(int64_t z) { return (int)((z + RING) % RING); }

static void widen(void *context, int64_t index) { field_widen(&((const similarity_job *)context)->field, index); }

enum { STRIP = 64 }; /* voxels whose neighbours are brought together before anything is computed of them */

/* The moving image and its derivatives by z, y and x at so many places. */
static void sample_strip(const float *moving, int64_t row, int64_t plane, const int32_t *at, const float *fz,
                         const float *fy, const float *fx, int64_t n, float found[4][STRIP]) {
    float pairs[4][2 * STRIP]; /* each voxel with the next, in four rows */
    for (int64_t x = 0; x < n; x++) {
        const float *p = moving + at[x], *q = p + plane;
        memcpy(pairs[0] + 2 * x, p, 2 * sizeof(float));
        memcpy(pairs[1] + 2 * x, p + row, 2 * sizeof(float));
        memcpy(pairs[2] + 2 * x, q, 2 * sizeof(float));
        memcpy(pairs[3] + 2 * x, q + row, 2 * sizeof(float));
    }
    for (int64_t x = 0; x < n; x++) {
        float p000 = pairs[0][2 * x], d00 = pairs[0][2 * x + 1] - p000;
        float p010 = pairs[1][2 * x], d01 = pairs[1][2 * x + 1] - p010;
        float p100 = pairs[2][2 * x], d10 = pairs[2][2 * x + 1] - p100;
        float p110 = pairs[3][2 * x], d11 = pairs[3][2 * x + 1] - p110;
        float l00 = p000 + fx[x] * d00, l01 = p010 + fx[x] * d01, l10 = p100 + fx[x] * d10, l11 = p110 + fx[x] * d11;
        float e0 = l01 - l00, e1 = l11 - l10;
        float m0 = l00 + fy[x] * e0, m1 = l10 + fy[x] * e1;
        float s0 = d00 + fy[x] * (d01 - d00), s1 = d10 + fy[x] * (d11 - d10);
        found[0][x] = m0 + fz[x] * (m1 - m0);
        found[1][x] = m1 - m0;
        found[2][x] = e0 + fz[x] * (e1 - e0);
        found[3][x] = s0 + fz[x] * (s1 - s0);
    }
}

/* The moving image and its derivatives at row (z, y), voxels from .. to - 1. */
static void sample_row(const similarity_job *job, field_plane low, int64_t z, int64_t y, int64_t from, int64_t to,
                       float *restrict image, float *const along[3], float *restrict work) {
    int64_t W = job->field.shape[2], n = to - from;
    int64_t row = job->field.target[2], plane = job->field.target[1] * row;
    float *restrict fz = work, *restrict fy = work + W, *restrict fx = work + 2 * W;
    int32_t *restrict at = (int32_t *)(work + 3 * W);
    field_locate(&job->field, low, z, y, from, n, at, fz, fy, fx);
    for (int64_t start = 0; start < n; start += STRIP) {
        int64_t count = dg_min(STRIP, n - start), to_row = y * W + from + start;
        float found[4][STRIP];
        sample_strip(job->moving, row, plane, at + start, fz + start, fy + start, fx + start, count, found);
        memcpy(image + to_row, found[0], (size_t)count * sizeof(float));
        for (int c = 0; c < 3; c++) memcpy(along[c] + to_row, found[c + 1], (size_t)count * sizeof(float));
    }
}

/* Of eight voxels whose differences are given: the sum of agreements is added to, the weights are stored. */
#define COMPARE(type, x)                                                            \
    do {                                                                            \
        type g0 = *(const type *)(after + x) - *(const type *)(before + x);         \
        type g1 = *(const type *)(here + x + W) - *(const type *)(here + x - W);    \
        type g2 = *(const type *)(here + x + 1) - *(const type *)(here + x - 1);    \
        type d0 = *(const type *)(n0 + x), d1 = *(const type *)(n1 + x), d2 = *(const type *)(n2 + x); \
        type dot = d0 * g0 + d1 * g1 + d2 * g2;                                     \
        type ratio = dot / (floor + g0 * g0 + g1 * g1 + g2 * g2);                   \
        *(type *)(w0 + x) = ratio * (d0 - ratio * g0);                              \
        *(type *)(w1 + x) = ratio * (d1 - ratio * g1);                              \
        *(type *)(w2 + x) = ratio * (d2 - ratio * g2);                              \
        agreement = dot * ratio;                                                    \
    } while (0)

/* Agreement of row y of one plane, and its derivative with respect to the differences; returns the row's sum.
 * `images` are the planes before, at and after it. */
static double compare_row(const similarity_job *job, const float *const images[3], int64_t z, int64_t y,
                          float *const weights[3]) {
    int64_t W = job->field.shape[2], volume = job->field.shape[0] * job->field.shape[1] * W;
    const int32_t *span = job->spans + 2 * (z * job->field.shape[1] + y);
    int64_t row = y * W + span[0], n = span[1] - span[0], x = 0;
    const float *n0 = job->directions + z * job->field.shape[1] * W + row, *n1 = n0 + volume, *n2 = n1 + volume;
    const float *before = images[0] + row, *here = images[1] + row, *after = images[2] + row;
    float *w0 = weights[0] + row, *w1 = weights[1] + row, *w2 = weights[2] + row, floor = job->floor;
    dg_eight lanes = {0};
    double total = 0;
    for (; x + 8 <= n; x += 8) {
        dg_eight agreement;
        COMPARE(dg_eight, x);
        lanes += agreement;
    }
    for (; x < n; x++) {
        float agreement;
        COMPARE(float, x);
        total += agreement;
    }
    for (int i = 0; i < 8; i++) total += lanes[i];
    return total;
}

/* The derivative at row y of one plane, added to the two coarse rows around it.
 * The transpose of a central difference is the same difference of the weights, negated. */
static void give_back(const similarity_job *job, const part_memory *part, int64_t z, int64_t y, float *restrict rows) {
    const axis_map *axis = &job->field.axes[1];
    int64_t W = job->field.shape[2], size = job->field.coarse[1] * W;
    const int32_t *reach = job->reach + 2 * (z * job->field.shape[1] + y);
    int64_t from = reach[0], n = reach[1] - from, row = y * W + from;
    float *const *here = part->weights[slot(z)];
    const float *before = part->weights[slot(z - 1)][0] + row, *after = part->weights[slot(z + 1)][0] + row;
    const float *up = here[1] + row - W, *down = here[1] + row + W, *side = here[2] + row;
    float *restrict work = part->work;
    for (int64_t x = 0; x < n; x++) work[x] = before[x] - after[x] + (up[x] - down[x]) + (side[x - 1] - side[x + 1]);
    float t = axis->t[y];
    for (int64_t c = 0; c < 3; c++) {
        const float *restrict slope = part->along[slot(z)][c] + row;
        float *a = rows + c * size + axis->below[y] * W + from, *b = rows + c * size + axis->above[y] * W + from;
        for (int64_t x = 0; x < n; x++) work[W + x] = work[x] * slope[x];
        for (int64_t x = 0; x < n; x++) a[x] += (1 - t) * work[W + x];
        for (int64_t x = 0; x < n; x++) b[x] += t * work[W + x];
    }
}

/* Plane z: the moving image where the comparison looks. */
static void sample_plane(const similarity_job *job, const part_memory *part, int64_t z) {
    int64_t H = job->field.shape[1];
    field_plane low = field_at(&job->field, z, part->between);
    for (int64_t y = 0; y < H; y++) {
        const int32_t *reach = job->reach + 2 * (z * H + y);
        if (reach[1] > reach[0])
            sample_row(job, low, z, y, reach[0], reach[1], part->image[slot(z)], part->along[slot(z)],
                       part->work);
    }
}

/* Plane z: agreement and weights; the weights of the plane that had the memory before are cleared. */
static double compare_plane(const similarity_job *job, const part_memory *part, int64_t z, int64_t stale) {
    int64_t H = job->field.shape[1], W = job->field.shape[2];
    const float *const images[3] = {part->image[slot(z - 1)], part->image[slot(z)], part->image[slot(z + 1)]};
    double total = 0;
    for (int64_t y = 0; stale >= 0 && y < H; y++) {
        const int32_t *span = job->spans + 2 * (stale * H + y);
        for (int c = 0; c < 3; c++)
            memset(part->weights[slot(z)][c] + y * W + span[0], 0, (size_t)(span[1] - span[0]) * sizeof(float));
    }
    if (z < 1 || z > job->field.shape[0] - 2) return 0;
    for (int64_t y = 1; y < H - 1; y++) total += compare_row(job, images, z, y, part->weights[slot(z)]);
    return total;
}

static void similarity_part(void *context, int64_t index) {
    const similarity_job *job = context;
    int64_t D = job->field.shape[0], H = job->field.shape[1], size = 3 * job->field.coarse[1] * job->field.shape[2];
    int64_t start = index * job->chunk, stop = dg_min(start + job->chunk, D);
    part_memory part = divide(job, job->scratch + index * part_floats(job));
    for (int64_t z = dg_max(start - 2, 0); z < stop + 2; z++) {
        int64_t compared = z - 1, returned = z - 2;
        if (z < D) sample_plane(job, &part, z);
        if (compared >= start - 1) {
            int64_t stale = compared - RING >= start - 1 ? compared - RING : -1;
            double total = compare_plane(job, &part, compared, stale);
            if (compared >= start && compared < stop) job->totals[compared] = total;
        }
        if (returned >= start) {
            float *rows = job->rows + returned * size;
            memset(rows, 0, (size_t)size * sizeof(float));
            for (int64_t y = 0; y < H; y++) give_back(job, &part, returned, y, rows);
        }
    }
}

/* One coarse plane of one component: its share of the rows of all planes, then of each row's voxels. */
static void collect(void *context, int64_t index) {
    const similarity_job *job = context;
    int64_t component = index / job->field.coarse[0], k = index % job->field.coarse[0];
    int64_t h = job->field.coarse[1], w = job->field.coarse[2], W = job->field.shape[2], size = h * W;
    const axis_map *slow = &job->field.axes[0], *fast = &job->field.axes[2];
    float *restrict sum = job->field.lines + index * size, *out = job->gradient + index * h * w;
    memset(sum, 0, (size_t)size * sizeof(float));
    for (int64_t z = slow->first[k]; z < slow->last[k]; z++) {
        const float *restrict rows = job->rows + (3 * z + component) * size;
        float share = (slow->below[z] == k ? 1 - slow->t[z] : 0) + (slow->above[z] == k ? slow->t[z] : 0);
        for (int64_t i = 0; i < size; i++) sum[i] += share * rows[i];
    }
    for (int64_t y = 0; y < h; y++, sum += W)
        for (int64_t i = 0; i < w; i++) {
            float total = 0;
            for (int64_t x = fast->first[i]; x < fast->last[i]; x++)
                total += sum[x] * ((fast->below[x] == i ? 1 - fast->t[x] : 0) + (fast->above[x] == i ? fast->t[x] : 0));
            out[y * w + i] = 2 * job->field.scale[component] * total;
        }
}

/* Sum over the voxels of the squared agreement; its gradient goes to job->gradient. */
DG_EXPORT double DG_NAME(dg_similarity)(const similarity_job *job) {
    int64_t D = job->field.shape[0], coarse = 3 * job->field.coarse[0];
    double total = 0;
    dg_parallel(widen, (void *)job, coarse, job->threads);
    dg_parallel(similarity_part, (void *)job, (D + job->chunk - 1) / job->chunk, job->threads);
    dg_parallel(collect, (void *)job, coarse, job->threads);
    for (int64_t z = 0; z < D; z++) total += job->totals[z];
    return total;
}

/* Floats of working memory for one part of the planes. */
DG_EXPORT int64_t DG_NAME(dg_similarity_part_floats)(const similarity_job *job) { return part_floats(job); }

static void widened_span(const int32_t *spans, int64_t D, int64_t H, int64_t z, int64_t y, int32_t extra,
                         int32_t *from, int32_t *to) {
    if (z < 0 || y < 0 || z >= D || y >= H) return;
    const int32_t *span = spans + 2 * (z * H + y);
    if (span[1] <= span[0]) return;
    if (span[0] - extra < *from) *from = span[0] - extra;
    if (span[1] + extra > *to) *to = span[1] + extra;
}

/* Unit gradients of an image times the root of a weight, where they are not 0, and what their comparison looks at.
 *
 * image, weight: (D, H, W); directions: (3, D, H, W); spans, reach: (D, H, 2). */
DG_EXPORT void DG_NAME(dg_directions)(const float *image, const float *weight, const int64_t *shape, float floor,
                                      float *directions, int32_t *spans, int32_t *reach) {
    int64_t D = shape[0], H = shape[1], W = shape[2], volume = D * H * W;
    memset(directions, 0, (size_t)(3 * volume) * sizeof(float));
    memset(spans, 0, (size_t)(2 * D * H) * sizeof(int32_t));
    for (int64_t z = 1; z < D - 1; z++)
        for (int64_t y = 1; y < H - 1; y++) {
            int64_t row = (z * H + y) * W;
            int32_t *span = spans + 2 * (z * H + y);
            for (int64_t x = 1; x < W - 1; x++) {
                int64_t i = row + x;
                float g0 = image[i + H * W] - image[i - H * W], g1 = image[i + W] - image[i - W],
                      g2 = image[i + 1] - image[i - 1];
                float factor = sqrtf(weight[i] / (floor + g0 * g0 + g1 * g1 + g2 * g2));
                if (!(factor > 0)) continue;
                directions[i] = factor * g0;
                directions[i + volume] = factor * g1;
                directions[i + 2 * volume] = factor * g2;
                if (span[1] == 0) span[0] = (int32_t)x;
                span[1] = (int32_t)x + 1;
            }
        }
    for (int64_t z = 0; z < D; z++)
        for (int64_t y = 0; y < H; y++) {
            int32_t from = (int32_t)W, to = 0;
            widened_span(spans, D, H, z, y, 1, &from, &to);
            widened_span(spans, D, H, z - 1, y, 0, &from, &to);
            widened_span(spans, D, H, z + 1, y, 0, &from, &to);
            widened_span(spans, D, H, z, y - 1, 0, &from, &to);
            widened_span(spans, D, H, z, y + 1, 0, &from, &to);
            reach[2 * (z * H + y)] = to > from ? from : 0;
            reach[2 * (z * H + y) + 1] = to > from ? to : 0;
        }
}
