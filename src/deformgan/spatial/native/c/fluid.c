/* What a fluid registration does in every iteration: smoothing, similarities with their derivative, the driving force.
 *
 * Volumes are (D, H, W). A similarity is a weighted sum over the voxels; its derivative with respect to the moved image
 * is multiplied with `factor` and added to the gradient.
 */
#include "common.h"

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
} fluid_job;

static double sum_totals(const double *totals, int64_t n) {
    double total = 0;
    for (int64_t z = 0; z < n; z++) total += totals[z];
    return total;
}

typedef struct {
    const float *in;
    float *between, *out;
    int64_t shape[3], radius;
    const float *kernel; /* radius + 1 weights, the middle first */
    int64_t repeat;      /* 1: the border value goes on outside; 0: nothing lies there */
} fir_job;

static void add_scaled(float *restrict out, const float *restrict a, const float *restrict b, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += weight * (a[i] + b[i]);
}

static void add_one(float *restrict out, const float *restrict a, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] += weight * a[i];
}

static void scaled(float *restrict out, const float *restrict in, float weight, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = weight * in[i];
}

/* One line of `count` items of n floats: item i of the result. */
static void fir_item(const fir_job *job, const float *items, int64_t i, int64_t count, int64_t n, float *out) {
    scaled(out, items + i * n, job->kernel[0], n);
    for (int64_t k = 1; k <= job->radius; k++) {
        int64_t low = i - k, high = i + k;
        if (low >= 0 && high < count) {
            add_scaled(out, items + low * n, items + high * n, job->kernel[k], n);
            continue;
        }
        if (low >= 0 || job->repeat) add_one(out, items + dg_max(low, 0) * n, job->kernel[k], n);
        if (high < count || job->repeat) add_one(out, items + dg_min(high, count - 1) * n, job->kernel[k], n);
    }
}

static void fir_row(const fir_job *job, const float *restrict in, float *restrict out) {
    int64_t W = job->shape[2];
    scaled(out, in, job->kernel[0], W);
    for (int64_t k = 1; k <= job->radius; k++) {
        float weight = job->kernel[k];
        if (W > 2 * k) add_scaled(out + k, in, in + 2 * k, weight, W - 2 * k);
        for (int64_t x = 0; x < W; x++) {
            if (x == k && W - k > x) x = W - k; /* the middle is done */
            if (x - k >= 0 || job->repeat) out[x] += weight * in[dg_max(x - k, 0)];
            if (x + k < W || job->repeat) out[x] += weight * in[dg_min(x + k, W - 1)];
        }
    }
}

/* Along y and x, for one plane; `out` serves as memory between the two. */
static void fir_plane(void *context, int64_t z) {
    const fir_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2];
    const float *in = job->in + z * H * W;
    float *rows = job->out + z * H * W, *made = job->between + z * H * W;
    for (int64_t y = 0; y < H; y++) fir_item(job, in, y, H, W, rows + y * W);
    for (int64_t y = 0; y < H; y++) fir_row(job, rows + y * W, made + y * W);
}

static void fir_across(void *context, int64_t index) {
    const fir_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = index / D;
    fir_item(job, job->between + volume * D * plane, index % D, D, plane, job->out + index * plane);
}

/* Weighted sums along all three axes: `count` volumes, with radius + 1 weights of a symmetric kernel, the middle first.
 * in: (count, D, H, W), unless it is `out` itself, which is not allowed; between: as large. */
DG_EXPORT void DG_NAME(dg_fir)(const float *in, int64_t count, const int64_t *shape, const float *kernel,
                               int64_t radius, int64_t repeat, float *between, float *out, int64_t threads) {
    fir_job job = {in, between, out, {shape[0], shape[1], shape[2]}, radius, kernel, repeat};
    dg_parallel(fir_plane, &job, count * shape[0], threads);
    dg_parallel(fir_across, &job, count * shape[0], threads);
}

static void force_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], volume = job->shape[0] * H * W;
    float *out = job->work + z * H * W;
    for (int c = 0; c < 3; c++) memset(out + c * volume, 0, (size_t)(H * W) * sizeof(float));
    if (z < 1 || z > job->shape[0] - 2) return;
    for (int64_t y = 1; y < H - 1; y++) {
        const float *restrict m = job->moved + (z * H + y) * W, *restrict g = job->fixed + (z * H + y) * W;
        float *restrict o0 = out + y * W, *restrict o1 = o0 + volume, *restrict o2 = o1 + volume;
        for (int64_t x = 1; x < W - 1; x++) {
            float half = 0.5f * g[x];
            o0[x] = half * (m[x + H * W] - m[x - H * W]);
            o1[x] = half * (m[x + W] - m[x - W]);
            o2[x] = half * (m[x + 1] - m[x - 1]);
        }
    }
}

/* The derivative `slope` of a similarity, times the central differences of the moved image: (3, D, H, W). */
DG_EXPORT void DG_NAME(dg_force)(const float *slope, const float *moved, const int64_t *shape, float *out,
                                 int64_t threads) {
    fluid_job job = {.shape = {shape[0], shape[1], shape[2]}, .fixed = slope, .moved = moved, .work = out};
    dg_parallel(force_plane, &job, shape[0], threads);
}

/* Window sums in one plane, along y and x, of a volume that is there plane by plane; `line` has room for W. */
static void box_plane(const float *restrict in, float *restrict out, int64_t H, int64_t W, int64_t r,
                      float *restrict line) {
    for (int64_t y = 0; y < H; y++) {
        memset(line, 0, (size_t)W * sizeof(float));
        for (int64_t k = dg_max(y - r, 0); k <= dg_min(y + r, H - 1); k++)
            for (int64_t x = 0; x < W; x++) line[x] += in[k * W + x];
        float *restrict row = out + y * W;
        memcpy(row, line, (size_t)W * sizeof(float));
        for (int64_t k = 1; k <= dg_min(r, W - 1); k++) {
            for (int64_t x = 0; x < W - k; x++) row[x + k] += line[x];
            for (int64_t x = 0; x < W - k; x++) row[x] += line[x + k];
        }
    }
}

static void multiply(float *restrict out, const float *restrict a, const float *restrict b, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = a[i] * b[i];
}

enum { MOMENTS = 5, BACK = 4 };

/* Working memory of the local correlation: (5, D, H, W) sums in the planes, (4, D, H, W) factors, (D, H W + W). */
static void moments_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, volume = job->shape[0] * plane;
    const float *restrict f = job->fixed + z * plane, *restrict m = job->moved + z * plane;
    float *product = job->work + (MOMENTS + BACK) * volume + z * (plane + W);
    for (int k = 0; k < MOMENTS; k++) {
        if (k < 2)
            memcpy(product, k == 0 ? f : m, (size_t)plane * sizeof(float));
        else
            multiply(product, k == 3 ? m : f, k == 2 ? f : m, plane);
        box_plane(product, job->work + k * volume + z * plane, H, W, job->radius, product + plane);
    }
}

static void add_planes(const float *in, int64_t z, int64_t D, int64_t r, int64_t plane, int64_t from, int64_t n,
                       float *restrict out) {
    memset(out, 0, (size_t)n * sizeof(float));
    for (int64_t k = dg_max(z - r, 0); k <= dg_min(z + r, D - 1); k++) {
        const float *restrict row = in + k * plane + from;
        for (int64_t i = 0; i < n; i++) out[i] += row[i];
    }
}

static void correlate_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = D * plane;
    float side = (float)(2 * job->radius + 1), share = 1 / (side * side * side), sums[MOMENTS][64];
    float *back = job->work + MOMENTS * volume + z * plane;
    double total = 0;
    for (int64_t from = 0; from < plane; from += 64) {
        int64_t n = dg_min(64, plane - from);
        const float *restrict w = job->weight + z * plane + from;
        float *restrict b0 = back + from, *restrict b1 = b0 + volume, *restrict b2 = b1 + volume,
                        *restrict b3 = b2 + volume;
        float agreement[64], epsilon = job->epsilon;
        for (int k = 0; k < MOMENTS; k++) add_planes(job->work + k * volume, z, D, job->radius, plane, from, n, sums[k]);
        for (int64_t i = 0; i < n; i++) {
            float mf = sums[0][i] * share, mm = sums[1][i] * share;
            float vf = sums[2][i] * share - mf * mf, vm = sums[3][i] * share - mm * mm;
            float covariance = sums[4][i] * share - mf * mm;
            vf = (vf > 0 ? vf : 0) + epsilon;
            vm = (vm > 0 ? vm : 0) + epsilon;
            float k = w[i] * covariance / (vf * vm), to_covariance = 2 * k, to_variance = -2 * k * covariance / vm;
            agreement[i] = k * covariance;
            b0[i] = to_covariance;
            b1[i] = to_covariance * mf;
            b2[i] = to_variance;
            b3[i] = to_variance * mm;
        }
        for (int64_t i = 0; i < n; i++) total += agreement[i];
    }
    job->totals[z] = total;
}

static void back_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, volume = job->shape[0] * plane;
    float *line = job->work + (MOMENTS + BACK) * volume + z * (plane + W);
    for (int k = 0; k < BACK; k++)
        box_plane(job->work + (MOMENTS + k) * volume + z * plane, job->work + k * volume + z * plane, H, W, job->radius,
                  line);
}

static void give_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t D = job->shape[0], plane = job->shape[1] * job->shape[2], volume = D * plane;
    float side = (float)(2 * job->radius + 1), share = job->factor / (side * side * side), sums[BACK][64];
    for (int64_t from = 0; from < plane; from += 64) {
        int64_t n = dg_min(64, plane - from), at = z * plane + from;
        const float *restrict f = job->fixed + at, *restrict m = job->moved + at;
        float *restrict g = job->gradient + at;
        for (int k = 0; k < BACK; k++) add_planes(job->work + k * volume, z, D, job->radius, plane, from, n, sums[k]);
        for (int64_t i = 0; i < n; i++)
            g[i] += share * (sums[0][i] * f[i] - sums[1][i] + sums[2][i] * m[i] - sums[3][i]);
    }
}

/* Squared local correlation in cubes of 2 radius + 1 voxels. Means are over the whole cube, also where it reaches
 * outside; `epsilon` is added to both variances. */
DG_EXPORT double DG_NAME(dg_local_correlation)(fluid_job *job) {
    int64_t D = job->shape[0];
    dg_parallel(moments_plane, job, D, job->threads);
    dg_parallel(correlate_plane, job, D, job->threads);
    dg_parallel(back_plane, job, D, job->threads);
    dg_parallel(give_plane, job, D, job->threads);
    return sum_totals(job->totals, D);
}

/* Weights of the derivative of one plane, into (3, D, H, W); `fixed` are (3, D, H, W) weighted unit gradients. */
static void edges_plane(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], volume = job->shape[0] * H * W;
    float floor = 4 * job->epsilon * job->epsilon;
    double total = 0;
    for (int c = 0; c < 3; c++) memset(job->work + c * volume + z * H * W, 0, (size_t)(H * W) * sizeof(float));
    job->totals[z] = 0;
    if (z < 1 || z > job->shape[0] - 2) return;
    for (int64_t y = 1; y < H - 1; y++) {
        int64_t row = (z * H + y) * W;
        const float *restrict m = job->moved + row, *restrict n0 = job->fixed + row, *restrict n1 = n0 + volume,
                              *restrict n2 = n1 + volume;
        float *restrict w0 = job->work + row, *restrict w1 = w0 + volume, *restrict w2 = w1 + volume;
        for (int64_t start = 1; start < W - 1; start += 64) {
            int64_t stop = dg_min(start + 64, W - 1);
            float agreement[64];
            for (int64_t x = start; x < stop; x++) {
                float g0 = m[x + H * W] - m[x - H * W], g1 = m[x + W] - m[x - W], g2 = m[x + 1] - m[x - 1];
                float dot = n0[x] * g0 + n1[x] * g1 + n2[x] * g2;
                float ratio = dot / (floor + g0 * g0 + g1 * g1 + g2 * g2);
                agreement[x - start] = dot * ratio;
                w0[x] = ratio * (n0[x] - ratio * g0);
                w1[x] = ratio * (n1[x] - ratio * g1);
                w2[x] = ratio * (n2[x] - ratio * g2);
            }
            for (int64_t x = start; x < stop; x++) total += agreement[x - start];
        }
    }
    job->totals[z] = total;
}

static void edges_back(void *context, int64_t z) {
    const fluid_job *job = context;
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2], plane = H * W, volume = D * plane;
    float factor = 2 * job->factor;
    float *restrict g = job->gradient + z * plane;
    const float *w = job->work + z * plane;
    if (z > 0) add_one(g, w - plane, factor, plane);
    if (z < D - 1) add_one(g, w + plane, -factor, plane);
    add_one(g + W, w + volume, factor, plane - W);
    add_one(g, w + volume + W, -factor, plane - W);
    /* a row's last weight is 0, so is the first: what wraps around adds nothing */
    add_one(g + 1, w + 2 * volume, factor, plane - 1);
    add_one(g, w + 2 * volume + 1, -factor, plane - 1);
}

/* Squared products of unit gradients, unwindowed. */
DG_EXPORT double DG_NAME(dg_edges)(fluid_job *job) {
    int64_t D = job->shape[0];
    dg_parallel(edges_plane, job, D, job->threads);
    dg_parallel(edges_back, job, D, job->threads);
    return sum_totals(job->totals, D);
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
