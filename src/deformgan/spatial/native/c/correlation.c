/* Squared local correlation with a fixed image, and its derivative with respect to the moved one.
 *
 * Volumes are (D, H, W). The derivative is multiplied with `factor` and added to the gradient. Sums in the planes are
 * taken a few planes at a time by one thread, sums across them of 64 voxels at a time: both stay in the cache. Around
 * what has a weight is much that has none: rows and strips of 64 voxels that nothing depends on are left out.
 */
#include "rows.h"

typedef struct {
    int64_t shape[3];
    int64_t threads;
    const float *fixed, *moved, *weight;
    float factor;
    float *gradient;
    float *work;
    double *totals; /* one for each plane */
    int64_t radius;
    float epsilon;
    int64_t chunk;  /* planes that are one part of the work */
    float *scratch; /* for each part 3 H W + W + H floats */
    /* what counts, of each plane: rows with a weight, strips with one, and strips within reach of one */
    uint8_t *rows, *strips, *near;
} correlation_job;

static double sum_totals(const double *totals, int64_t n) {
    double total = 0;
    for (int64_t z = 0; z < n; z++) total += totals[z];
    return total;
}

static void multiply(float *restrict out, const float *restrict a, const float *restrict b, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = a[i] * b[i];
}

/* Working memory of the local correlation, all 0 at first, in volumes: sums in the planes of the moved image, its square
 * and its product with the fixed one; sums in the planes of the three factors of the derivative; mean and inverse
 * variance of the fixed image. */
enum { MOMENTS = 3, FACTORS = 3, MEAN = MOMENTS + FACTORS, INVERSE, STRIP = 64 };

static int64_t strips_of(const correlation_job *job) { return (job->shape[1] * job->shape[2] + STRIP - 1) / STRIP; }

/* Whether any of some flags (n planes of `width`) is set, from one to another place of the planes near z. */
static int any_near(const uint8_t *flags, int64_t width, int64_t D, int64_t z, int64_t r, int64_t first, int64_t last) {
    for (int64_t at = dg_max(z - r, 0); at <= dg_min(z + r, D - 1); at++)
        for (int64_t i = dg_max(first, 0); i <= dg_min(last, width - 1); i++)
            if (flags[at * width + i]) return 1;
    return 0;
}

static void count_plane(void *context, int64_t z) {
    const correlation_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, many = strips_of(job);
    const float *w = job->weight + z * plane;
    memset(job->rows + z * H, 0, (size_t)H);
    memset(job->strips + z * many, 0, (size_t)many);
    for (int64_t y = 0; y < H; y++)
        for (int64_t x = 0; x < W; x++)
            if (w[y * W + x] != 0) job->rows[z * H + y] = job->strips[z * many + (y * W + x) / STRIP] = 1;
}

static void reach_plane(void *context, int64_t z) {
    const correlation_job *job = context;
    int64_t many = strips_of(job), r = job->radius, reach = r * job->shape[2] + r;
    for (int64_t s = 0; s < many; s++) {
        int64_t first = s * STRIP - reach, last = s * STRIP + STRIP - 1 + reach;
        first = dg_max(first, 0) / STRIP;
        job->near[z * many + s] = (uint8_t)any_near(job->strips, many, job->shape[0], z, r, first, last / STRIP);
    }
}

static float *part_scratch(const correlation_job *job, int64_t part) {
    int64_t H = job->shape[1], W = job->shape[2];
    return job->scratch + part * (FACTORS * H * W + W + H);
}

/* Room for a flag for each row, behind the line. */
static uint8_t *part_needed(const correlation_job *job, int64_t part) {
    int64_t H = job->shape[1], W = job->shape[2];
    return (uint8_t *)(part_scratch(job, part) + FACTORS * H * W + W);
}

static float share_of(const correlation_job *job) {
    float side = (float)(2 * job->radius + 1);
    return 1 / (side * side * side);
}

/* Sums in the planes of one part, of two images and products: the fixed image alone, or the moved with both. */
static void moments_of(const correlation_job *job, int64_t part, int fixed_alone) {
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, volume = job->shape[0] * plane;
    float *product = part_scratch(job, part), *line = product + plane;
    for (int64_t z = part * job->chunk; z < dg_min((part + 1) * job->chunk, job->shape[0]); z++) {
        const float *f = job->fixed + z * plane, *m = (fixed_alone ? job->fixed : job->moved) + z * plane;
        float *sums = job->work + z * plane;
        uint8_t *needed = part_needed(job, part);
        for (int64_t y = 0; y < H; y++)
            needed[y] = (uint8_t)(fixed_alone || any_near(job->rows, H, job->shape[0], z, job->radius, y, y));
        dg_box_plane(m, sums, H, W, job->radius, line, needed);
        multiply(product, m, m, plane);
        dg_box_plane(product, sums + volume, H, W, job->radius, line, needed);
        if (fixed_alone) continue;
        multiply(product, f, m, plane);
        dg_box_plane(product, sums + 2 * volume, H, W, job->radius, line, needed);
    }
}

static void fixed_part(void *context, int64_t part) { moments_of(context, part, 1); }

static void moments_part(void *context, int64_t part) { moments_of(context, part, 0); }

static void add_planes(const float *in, int64_t z, int64_t D, int64_t r, int64_t plane, int64_t from, int64_t n,
                       float *out) {
    dg_sum_items(out, in + from, plane, z, D, NULL, r, 0, n);
}

static void fixed_across(void *context, int64_t z) {
    const correlation_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = D * plane;
    float share = share_of(job), epsilon = job->epsilon, sums[2][STRIP];
    for (int64_t from = 0; from < plane; from += STRIP) {
        int64_t n = dg_min(STRIP, plane - from);
        float *restrict mean = job->work + MEAN * volume + z * plane + from, *restrict inverse = mean + volume;
        for (int k = 0; k < 2; k++) add_planes(job->work + k * volume, z, D, job->radius, plane, from, n, sums[k]);
        for (int64_t i = 0; i < n; i++) {
            float mf = sums[0][i] * share, vf = sums[1][i] * share - mf * mf;
            mean[i] = mf;
            inverse[i] = 1 / ((vf > 0 ? vf : 0) + epsilon);
        }
    }
}

/* What is needed of the fixed image: once for all moved ones. */
DG_EXPORT void DG_NAME(dg_correlation_fixed)(correlation_job *job) {
    int64_t D = job->shape[0];
    dg_parallel(count_plane, job, D, job->threads);
    dg_parallel(reach_plane, job, D, job->threads);
    dg_parallel(fixed_part, job, (D + job->chunk - 1) / job->chunk, job->threads);
    dg_parallel(fixed_across, job, D, job->threads);
}

/* The correlation of a run of voxels, and the factors of its derivative. */
static double correlate_run(const correlation_job *job, int64_t z, int64_t from, int64_t n, float *factors) {
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = D * plane, at = z * plane + from;
    float share = share_of(job), epsilon = job->epsilon, sums[MOMENTS][STRIP], found[STRIP];
    const float *restrict w = job->weight + at, *restrict mean = job->work + MEAN * volume + at,
                          *restrict inverse = mean + volume;
    float *restrict b0 = factors, *restrict b1 = factors + plane, *restrict b2 = factors + 2 * plane;
    for (int k = 0; k < MOMENTS; k++) add_planes(job->work + k * volume, z, D, job->radius, plane, from, n, sums[k]);
    for (int64_t i = 0; i < n; i++) {
        float mm = sums[0][i] * share, vm = sums[1][i] * share - mm * mm;
        float covariance = sums[2][i] * share - mean[i] * mm;
        vm = 1 / ((vm > 0 ? vm : 0) + epsilon);
        float k = w[i] * covariance * inverse[i] * vm, to_covariance = 2 * k, to_variance = -2 * k * covariance * vm;
        found[i] = k * covariance;
        b0[i] = to_covariance;
        b1[i] = to_variance;
        b2[i] = to_covariance * mean[i] + to_variance * mm;
    }
    double total = 0;
    for (int64_t i = 0; i < n; i++) total += found[i];
    return total;
}

static void correlate_part(void *context, int64_t part) {
    const correlation_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, volume = job->shape[0] * plane;
    float *factors = part_scratch(job, part), *line = factors + FACTORS * plane;
    uint8_t *needed = part_needed(job, part);
    for (int64_t z = part * job->chunk; z < dg_min((part + 1) * job->chunk, job->shape[0]); z++) {
        double total = 0;
        for (int64_t from = 0; from < plane; from += STRIP) {
            int64_t n = dg_min(STRIP, plane - from);
            if (job->strips[z * strips_of(job) + from / STRIP])
                total += correlate_run(job, z, from, n, factors + from);
            else
                for (int k = 0; k < FACTORS; k++) memset(factors + k * plane + from, 0, (size_t)n * sizeof(float));
        }
        job->totals[z] = total;
        for (int64_t y = 0; y < H; y++)
            needed[y] = (uint8_t)any_near(job->rows, H, job->shape[0], z, 0, y - job->radius, y + job->radius);
        for (int k = 0; k < FACTORS; k++)
            dg_box_plane(factors + k * plane, job->work + (MOMENTS + k) * volume + z * plane, H, W, job->radius, line,
                         needed);
    }
}

static void give_plane(void *context, int64_t z) {
    const correlation_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = D * plane;
    const float *factors = job->work + MOMENTS * volume;
    float share = job->factor * share_of(job), sums[FACTORS][STRIP];
    for (int64_t from = 0; from < plane; from += STRIP) {
        if (!job->near[z * strips_of(job) + from / STRIP]) continue;
        int64_t n = dg_min(STRIP, plane - from), at = z * plane + from;
        const float *restrict f = job->fixed + at, *restrict m = job->moved + at;
        float *restrict g = job->gradient + at;
        for (int k = 0; k < FACTORS; k++) add_planes(factors + k * volume, z, D, job->radius, plane, from, n, sums[k]);
        for (int64_t i = 0; i < n; i++) g[i] += share * (sums[0][i] * f[i] + sums[1][i] * m[i] - sums[2][i]);
    }
}

/* Squared local correlation in cubes of 2 radius + 1 voxels, after dg_correlation_fixed. Means are over the whole cube,
 * also where it reaches outside; `epsilon` is added to both variances. */
DG_EXPORT double DG_NAME(dg_local_correlation)(correlation_job *job) {
    int64_t D = job->shape[0], parts = (D + job->chunk - 1) / job->chunk;
    dg_parallel(moments_part, job, parts, job->threads);
    dg_parallel(correlate_part, job, parts, job->threads);
    dg_parallel(give_plane, job, D, job->threads);
    return sum_totals(job->totals, D);
}
