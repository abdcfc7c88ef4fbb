/* What a fluid registration does in every step: smoothing, the driving force, mutual information with its derivative.
 *
 * Volumes are (D, H, W). Mutual information is a weighted sum over the voxels; its derivative with respect to the moved
 * image is multiplied with `factor` and added to the gradient.
 */
#include "rows.h"

typedef struct {
    const float *in;
    float *between, *out;
    int64_t shape[3], radius;
    const float *kernel; /* radius + 1 weights, the middle first */
    int64_t repeat;      /* 1: the border value goes on outside; 0: nothing lies there */
    int64_t planes, chunk; /* in all, and of one part */
    float *rows;           /* for each part W floats */
} fir_job;

enum { RUN = 512 }; /* floats that stay in the nearest cache */

/* Along y and then x, row by row: what is in between need not go to memory. */
static void fir_part(void *context, int64_t part) {
    const fir_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2];
    float *row = job->rows + part * W;
    for (int64_t z = part * job->chunk; z < dg_min((part + 1) * job->chunk, job->planes); z++)
        for (int64_t y = 0; y < H; y++) {
            dg_sum_items(row, job->in + z * H * W, W, y, H, job->kernel, job->radius, job->repeat, W);
            dg_sum_along(job->between + (z * H + y) * W, row, job->kernel, job->radius, job->repeat, W);
        }
}

static void fir_across(void *context, int64_t index) {
    const fir_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = index / D;
    const float *items = job->between + volume * D * plane;
    float *out = job->out + index * plane;
    for (int64_t from = 0; from < plane; from += RUN)
        dg_sum_items(out + from, items + from, plane, index % D, D, job->kernel, job->radius, job->repeat,
                     dg_min(RUN, plane - from));
}

/* Weighted sums along all three axes: `count` volumes, with radius + 1 weights of a symmetric kernel, the middle first.
 * in: (count, D, H, W); between: as large, and not `in`; rows: W floats for each part of the work. */
DG_EXPORT void DG_NAME(dg_fir)(const float *in, int64_t count, const int64_t *shape, const float *kernel,
                               int64_t radius, int64_t repeat, float *between, float *out, float *rows, int64_t parts,
                               int64_t threads) {
    int64_t planes = count * shape[0];
    fir_job job = {in,     between, out, {shape[0], shape[1], shape[2]}, radius, kernel, repeat, planes,
                   (planes + parts - 1) / parts, rows};
    dg_parallel(fir_part, &job, (planes + job.chunk - 1) / job.chunk, threads);
    dg_parallel(fir_across, &job, count * shape[0], threads);
}

typedef struct {
    const float *slope, *moved;
    int64_t shape[3];
    float *out;
    const int32_t *spans; /* (D, H, 2): of each row what is made, all else staying as it is; NULL: everything */
} force_job;

static void force_plane(void *context, int64_t z) {
    const force_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], volume = job->shape[0] * H * W;
    float *out = job->out + z * H * W;
    if (!job->spans)
        for (int c = 0; c < 3; c++) memset(out + c * volume, 0, (size_t)(H * W) * sizeof(float));
    if (z < 1 || z > job->shape[0] - 2) return;
    for (int64_t y = 1; y < H - 1; y++) {
        const float *restrict m = job->moved + (z * H + y) * W, *restrict g = job->slope + (z * H + y) * W;
        float *restrict o0 = out + y * W, *restrict o1 = o0 + volume, *restrict o2 = o1 + volume;
        const int32_t *span = job->spans ? job->spans + 2 * (z * H + y) : NULL;
        int64_t stop = span ? dg_min(span[1], W - 1) : W - 1;
        for (int64_t x = span ? dg_max(span[0], 1) : 1; x < stop; x++) {
            float half = 0.5f * g[x];
            o0[x] = half * (m[x + H * W] - m[x - H * W]);
            o1[x] = half * (m[x + W] - m[x - W]);
            o2[x] = half * (m[x + 1] - m[x - 1]);
        }
    }
}

/* The derivative `slope` of a similarity, times the central differences of the moved image: (3, D, H, W). */
DG_EXPORT void DG_NAME(dg_force)(const float *slope, const float *moved, const int64_t *shape, float *out,
                                 const int32_t *spans, int64_t threads) {
    force_job job = {slope, moved, {shape[0], shape[1], shape[2]}, out, spans};
    dg_parallel(force_plane, &job, shape[0], threads);
}

typedef struct {
    const float *fixed, *moved, *weight; /* n voxels, intensities 0 to 1 */
    int64_t n, bins, parts;
    double *counts;     /* (parts, bins, bins) */
    const float *table; /* (bins, bins): derivative with respect to the moved image at fixed bin i, moved bin j */
    float factor;
    float *gradient;
} histogram_job;

static int64_t bin_of(float value, int64_t bins, float *behind) {
    float at = dg_clamp(value, 0, 1) * (float)(bins - 1);
    int64_t bin = dg_min((int64_t)at, bins - 2);
    *behind = at - (float)bin;
    return bin;
}

static void count_part(void *context, int64_t part) {
    const histogram_job *job = context;
    int64_t size = (job->n + job->parts - 1) / job->parts, bins = job->bins;
    double *counts = job->counts + part * bins * bins;
    memset(counts, 0, (size_t)(bins * bins) * sizeof(double));
    for (int64_t x = part * size; x < dg_min((part + 1) * size, job->n); x++) {
        float w = job->weight[x], p, q;
        if (!(w > 0)) continue;
        int64_t i = bin_of(job->fixed[x], bins, &p), j = bin_of(job->moved[x], bins, &q);
        double *at = counts + i * bins + j;
        at[0] += w * (1 - p) * (1 - q);
        at[1] += w * (1 - p) * q;
        at[bins] += w * p * (1 - q);
        at[bins + 1] += w * p * q;
    }
}

/* Joint histogram with linear Parzen windows in both images: (bins, bins), summed into the first part. */
DG_EXPORT void DG_NAME(dg_histogram)(const histogram_job *job, int64_t threads) {
    dg_parallel(count_part, (void *)job, job->parts, threads);
    int64_t size = job->bins * job->bins;
    for (int64_t part = 1; part < job->parts; part++)
        for (int64_t i = 0; i < size; i++) job->counts[i] += job->counts[part * size + i];
}

static void look_up_part(void *context, int64_t part) {
    const histogram_job *job = context;
    int64_t size = (job->n + job->parts - 1) / job->parts, bins = job->bins;
    for (int64_t x = part * size; x < dg_min((part + 1) * size, job->n); x++) {
        float w = job->weight[x], p, q;
        if (!(w > 0)) continue;
        int64_t i = bin_of(job->fixed[x], bins, &p), j = bin_of(job->moved[x], bins, &q);
        const float *at = job->table + i * bins + j;
        job->gradient[x] += job->factor * w * ((1 - p) * at[0] + p * at[bins]);
    }
}

/* Add the weighted derivative that a table gives for each pair of intensities. */
DG_EXPORT void DG_NAME(dg_look_up)(const histogram_job *job, int64_t threads) {
    dg_parallel(look_up_part, (void *)job, job->parts, threads);
}
