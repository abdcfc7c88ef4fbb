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
#include "eights.h"
#include "field.h"

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

enum { RING = 3 };       /* planes that are kept of each kind */
enum { COLLECTED = 10 }; /* floats a voxel of a row behind the field's lines, to collect the derivative with */

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

/* The moving image and its derivatives at row (z, y), n voxels from `from` on. */
static void sample_row(const similarity_job *job, field_plane low, int64_t z, int64_t y, int64_t from, int64_t n,
                       float *image, float *const along[3], float *restrict work) {
    int64_t W = job->field.shape[2], row = job->field.target[2], plane = job->field.target[1] * row, x = 0;
    float *restrict fz = work, *restrict fy = work + W, *restrict fx = work + 2 * W;
    int32_t *restrict at = (int32_t *)(work + 3 * W);
    field_locate(&job->field, low, z, y, from, n, at, fz, fy, fx);
    int64_t start = y * W + from;
    float *found[4] = {image + start, along[0] + start, along[1] + start, along[2] + start};
    for (; x + EIGHT <= n; x += EIGHT) {
        sample_eight(job->moving, row, plane, at + x, *(const dg_eight *)(fz + x), *(const dg_eight *)(fy + x),
                     *(const dg_eight *)(fx + x), found);
        for (int k = 0; k < 4; k++) found[k] += EIGHT;
    }
    if (x < n) sample_rest(job->moving, row, plane, at + x, fz + x, fy + x, fx + x, n - x, found);
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
    int64_t row = y * W + span[0], n = in_eights(span[1] - span[0], span[0], W), x = 0; /* beyond, directions are 0 */
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

/* a += (1 - t) * rising * slope and b += t * rising * slope, n floats, which may be the same where t is 0. */
static inline void give_row(const float *rising, const float *slope, float t, float *a, float *b, int64_t n) {
    int64_t x = 0;
    for (; x + EIGHT <= n; x += EIGHT) {
        dg_eight given = *(const dg_eight *)(rising + x) * *(const dg_eight *)(slope + x);
        *(dg_eight *)(a + x) += (1 - t) * given;
        *(dg_eight *)(b + x) += t * given;
    }
    for (; x < n; x++) {
        float given = rising[x] * slope[x];
        a[x] += (1 - t) * given;
        b[x] += t * given;
    }
}

/* The derivative at row y of one plane, added to the two coarse rows around it.
 * The transpose of a central difference is the same difference of the weights, negated. */
static void give_back(const similarity_job *job, const part_memory *part, int64_t z, int64_t y, float *rows) {
    const axis_map *axis = &job->field.axes[1];
    int64_t W = job->field.shape[2], size = job->field.coarse[1] * W;
    const int32_t *reach = job->reach + 2 * (z * job->field.shape[1] + y);
    int64_t from = reach[0], n = in_eights(reach[1] - from, from, W), row = y * W + from;
    float *const *here = part->weights[slot(z)];
    const float *before = part->weights[slot(z - 1)][0] + row, *after = part->weights[slot(z + 1)][0] + row;
    const float *up = here[1] + row - W, *down = here[1] + row + W, *side = here[2] + row;
    float *restrict work = part->work;
    for (int64_t x = 0; x < n; x++) work[x] = before[x] - after[x] + (up[x] - down[x]) + (side[x - 1] - side[x + 1]);
    for (int64_t c = 0; c < 3; c++)
        give_row(work, part->along[slot(z)][c] + row, axis->t[y], rows + c * size + axis->below[y] * W + from,
                 rows + c * size + axis->above[y] * W + from, n);
}

/* Plane z: the moving image where the comparison looks. */
static void sample_plane(const similarity_job *job, const part_memory *part, int64_t z) {
    int64_t H = job->field.shape[1];
    field_plane low = field_at(&job->field, z, part->between);
    for (int64_t y = 0; y < H; y++) {
        const int32_t *reach = job->reach + 2 * (z * H + y);
        if (reach[1] > reach[0])
            sample_row(job, low, z, y, reach[0], in_eights(reach[1] - reach[0], reach[0], job->field.shape[2]),
                       part->image[slot(z)], part->along[slot(z)], part->work);
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

/* Sums along up to eight rows of W floats: out[i] of each gets its share of what lies around coarse sample i.
 *
 * shares: of each i in turn, of all samples it goes to; columns: working memory, (W, 8). */
static void collect_rows(const axis_map *axis, const float *rows, int64_t count, int64_t W, int64_t w, float scale,
                         const float *shares, float *columns, float *out) {
    if (count < EIGHT) memset(columns, 0, (size_t)(EIGHT * W) * sizeof(float));
    for (int64_t y = 0; y < count; y++)
        for (int64_t x = 0; x < W; x++) columns[EIGHT * x + y] = rows[y * W + x];
    for (int64_t i = 0; i < w; i++) {
        dg_eight total = {0};
        for (int64_t x = axis->first[i]; x < axis->last[i]; x++)
            total += *(const dg_eight *)(columns + EIGHT * x) * *shares++;
        for (int64_t y = 0; y < count; y++) out[y * w + i] = scale * total[y];
    }
}

/* One coarse plane of one component: its share of the rows of all planes, then of each row's voxels. */
static void collect(void *context, int64_t index) {
    const similarity_job *job = context;
    int64_t component = index / job->field.coarse[0], k = index % job->field.coarse[0];
    int64_t h = job->field.coarse[1], w = job->field.coarse[2], W = job->field.shape[2], size = h * W;
    const axis_map *slow = &job->field.axes[0], *fast = &job->field.axes[2];
    float *sum = job->field.lines + index * size, *out = job->gradient + index * h * w;
    float *columns = job->field.lines + 3 * job->field.coarse[0] * size + index * COLLECTED * W;
    float *shares = columns + EIGHT * W, *share = shares, planes[DG_ROWS], scale = 2 * job->field.scale[component];
    const float *rows[DG_ROWS];
    int filled = 0, begun = 0;
    for (int64_t z = slow->first[k]; z < slow->last[k]; z++) {
        rows[filled] = job->rows + (3 * z + component) * size;
        planes[filled] = field_share(slow, z, k);
        if (++filled < DG_ROWS && z + 1 < slow->last[k]) continue;
        dg_sum_rows(sum, rows, planes, filled, begun, size);
        begun = 1, filled = 0;
    }
    if (!begun) memset(sum, 0, (size_t)size * sizeof(float));
    for (int64_t i = 0; i < w; i++)
        for (int64_t x = fast->first[i]; x < fast->last[i]; x++) *share++ = field_share(fast, x, i);
    for (int64_t y = 0; y < h; y += EIGHT)
        collect_rows(fast, sum + y * W, dg_min(EIGHT, h - y), W, w, scale, shares, columns, out + y * w);
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
