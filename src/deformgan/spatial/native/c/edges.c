/* Evidence for T's local stage, and the expectation of its global matching. */
#include "exponential.h"

typedef struct {
    int64_t shape[3], channels, factor; /* of the (C, D, H, W) volumes; cubes of factor voxels are averaged */
    const float *fixed;  /* (C, D, H, W) */
    const float *padded; /* (C, D + 2, H + 2, W + 2): what it is multiplied with, 0 around */
    float scale;
    int64_t squared;
    float *out; /* (27, D / factor, H / factor, W / factor) */
    float *scratch; /* for each plane of the output (2, W) */
} shift_job;

/* Added to `sum`: the products of one fixed row with one shifted row over the channels, squared if asked for. */
static void add_row(const shift_job *job, int64_t z, int64_t y, const int64_t shift[3], float *restrict dot,
                    float *restrict sum) {
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2];
    int64_t own = D * H * W, other = (D + 2) * (H + 2) * (W + 2);
    const float *restrict a = job->fixed + (z * H + y) * W;
    const float *restrict b = job->padded + ((z + shift[0]) * (H + 2) + y + shift[1]) * (W + 2) + shift[2];
    if (job->channels == 3 && job->squared) { /* the edges: nearly all of the work */
        const float *restrict a1 = a + own, *restrict a2 = a1 + own, *restrict b1 = b + other, *restrict b2 = b1 + other;
        for (int64_t x = 0; x < W; x++) {
            float product = a[x] * b[x] + a1[x] * b1[x] + a2[x] * b2[x];
            sum[x] += product * product;
        }
        return;
    }
    memset(dot, 0, (size_t)W * sizeof(float));
    for (int64_t c = 0; c < job->channels; c++, a += own, b += other)
        for (int64_t x = 0; x < W; x++) dot[x] += a[x] * b[x];
    for (int64_t x = 0; x < W; x++) sum[x] += job->squared ? dot[x] * dot[x] : dot[x];
}

static void shift_plane(void *context, int64_t z) {
    const shift_job *job = context;
    int64_t f = job->factor, W = job->shape[2], d = job->shape[0] / f, h = job->shape[1] / f, w = W / f;
    float *dot = job->scratch + 2 * z * W, *sum = dot + W, scale = job->scale / (float)(f * f * f);
    for (int64_t n = 0; n < 27; n++) {
        int64_t shift[3] = {n / 9, n / 3 % 3, n % 3};
        for (int64_t y = 0; y < h; y++) {
            float *out = job->out + ((n * d + z) * h + y) * w;
            memset(sum, 0, (size_t)W * sizeof(float));
            for (int64_t i = 0; i < f * f; i++) add_row(job, f * z + i / f, f * y + i % f, shift, dot, sum);
            if (f == 2) {
                for (int64_t x = 0; x < w; x++) out[x] = scale * (sum[2 * x] + sum[2 * x + 1]);
                continue;
            }
            for (int64_t x = 0; x < w; x++) {
                float total = 0;
                for (int64_t k = 0; k < f; k++) total += sum[f * x + k];
                out[x] = scale * total;
            }
        }
    }
}

/* Products with the 27 shifts by up to one voxel; shift (i, j, k) - 1 is number 9 i + 3 j + k. */
DG_EXPORT void DG_NAME(dg_shifted_products)(const shift_job *job, int64_t threads) {
    dg_parallel(shift_plane, (void *)job, job->shape[0] / job->factor, threads);
}

typedef struct {
    const float *image;
    int64_t shape[3];
    float floor;
    int64_t border; /* voxels of 0 around the result */
    float *out;
} gradient_job;

static void gradient_plane(void *context, int64_t z) {
    const gradient_job *job = context;
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2], b = job->border;
    int64_t row = W + 2 * b, plane = (H + 2 * b) * row, volume = (D + 2 * b) * plane;
    float *restrict o0 = job->out + z * plane, *restrict o1 = o0 + volume, *restrict o2 = o1 + volume;
    memset(o0, 0, (size_t)plane * sizeof(float));
    memset(o1, 0, (size_t)plane * sizeof(float));
    memset(o2, 0, (size_t)plane * sizeof(float));
    if (z - b < 1 || z - b > D - 2) return;
    for (int64_t y = 1; y < H - 1; y++) {
        const float *restrict in = job->image + ((z - b) * H + y) * W;
        int64_t to = (y + b) * row + b;
        for (int64_t x = 1; x < W - 1; x++) {
            float g0 = in[x + H * W] - in[x - H * W], g1 = in[x + W] - in[x - W], g2 = in[x + 1] - in[x - 1];
            float factor = 1 / sqrtf(job->floor + g0 * g0 + g1 * g1 + g2 * g2);
            o0[to + x] = factor * g0;
            o1[to + x] = factor * g1;
            o2[to + x] = factor * g2;
        }
    }
}

/* Central differences over their length, (D, H, W) to (3, D + 2 border, …); 0 on the outermost layer of the image.
 * `floor` is added to the squared length of the undivided differences. */
DG_EXPORT void DG_NAME(dg_unit_gradients)(const float *image, const int64_t *shape, float floor, int64_t border,
                                          float *out, int64_t threads) {
    gradient_job job = {image, {shape[0], shape[1], shape[2]}, floor, border, out};
    dg_parallel(gradient_plane, &job, shape[0] + 2 * border, threads);
}

typedef struct {
    const float *logits; /* (N, N) */
    int64_t shape[3];    /* d h w = N */
    float *out;          /* (4, N): the expected displacement and the greatest probability */
    int64_t rows;        /* in one part */
    float *scratch;      /* for each part (d + 1) h w */
} match_job;

static float greatest(const float *row, int64_t n) {
    float lanes[16], top = row[0];
    if (n < 16) {
        for (int64_t i = 1; i < n; i++) top = row[i] > top ? row[i] : top;
        return top;
    }
    for (int i = 0; i < 16; i++) lanes[i] = row[i];
    for (int64_t x = 16; x + 16 <= n; x += 16)
        for (int i = 0; i < 16; i++) lanes[i] = row[x + i] > lanes[i] ? row[x + i] : lanes[i];
    for (int64_t x = n - 16; x < n; x++) top = row[x] > top ? row[x] : top;
    for (int i = 0; i < 16; i++) top = lanes[i] > top ? lanes[i] : top;
    return top;
}

static float sum_of(const float *row, int64_t n) {
    float lanes[16] = {0}, total = 0;
    int64_t whole = n - n % 16;
    for (int64_t x = 0; x < whole; x += 16)
        for (int i = 0; i < 16; i++) lanes[i] += row[x + i];
    for (int64_t x = whole; x < n; x++) total += row[x];
    for (int i = 0; i < 16; i++) total += lanes[i];
    return total;
}

static void match_row(const match_job *job, int64_t index, float *restrict e, float *restrict column) {
    int64_t d = job->shape[0], h = job->shape[1], w = job->shape[2], plane = h * w, n = d * plane;
    const float *restrict row = job->logits + index * n;
    float top = greatest(row, n), total = 0, sums[3] = {0};
    dg_exponentials(e, row, top, 1, n);
    memset(column, 0, (size_t)plane * sizeof(float));
    for (int64_t z = 0; z < d; z++) {
        float in_plane = sum_of(e + z * plane, plane);
        for (int64_t i = 0; i < plane; i++) column[i] += e[z * plane + i];
        total += in_plane;
        sums[0] += in_plane * (float)z;
    }
    for (int64_t i = 0; i < plane; i++) {
        sums[1] += column[i] * (float)(i / w);
        sums[2] += column[i] * (float)(i % w);
    }
    int64_t own[3] = {index / plane, index / w % h, index % w};
    for (int c = 0; c < 3; c++) job->out[c * n + index] = sums[c] / total - (float)own[c];
    job->out[3 * n + index] = 1 / total;
}

static void match_part(void *context, int64_t part) {
    const match_job *job = context;
    int64_t plane = job->shape[1] * job->shape[2], n = job->shape[0] * plane;
    float *e = job->scratch + part * (n + plane);
    for (int64_t i = part * job->rows; i < dg_min((part + 1) * job->rows, n); i++)
        match_row(job, i, e, e + n);
}

/* From the logits of every fixed position (a row) and every moving one: softmax, its mean displacement, its maximum. */
DG_EXPORT void DG_NAME(dg_match)(const match_job *job, int64_t threads) {
    int64_t n = job->shape[0] * job->shape[1] * job->shape[2];
    dg_parallel(match_part, (void *)job, (n + job->rows - 1) / job->rows, threads);
}
