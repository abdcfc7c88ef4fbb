/* Control points of a field: smoothing, an affine map beside them, bending energy, folds, and a step of Adam.
 *
 * Volumes are (3, d, h, w), the components one after the other.
 */
#include "common.h"

typedef struct {
    int64_t shape[3];   /* d, h, w */
    int64_t smoothing;  /* how often the points are smoothed with a 3³ box */
    float ratio[3];     /* voxels of the full grid in one of the control points' */
    float reach;        /* positions are in units of so many voxels of the full grid */
    const float *points; /* (3, d, h, w), voxels of the full grid */
    const float *affine; /* (3, 4) */
    float *field;        /* (3, d, h, w), voxels of the control points' grid: the result, or its derivative */
    float *to_points;    /* (3, d, h, w): the derivative with respect to the points */
    float *to_affine;    /* (3, 4) */
    float *work;         /* (2, 3, d, h, w) */
    int64_t threads;
} control_job;

/* Means of three along one axis, the border repeated. This operator is its own transpose. */
static void smooth_axis(const float *restrict in, float *restrict out, const int64_t *shape, int axis) {
    int64_t step = axis == 0 ? shape[1] * shape[2] : axis == 1 ? shape[2] : 1;
    int64_t n = shape[axis], outer = axis == 0 ? 1 : axis == 1 ? shape[0] : shape[0] * shape[1];
    const float third = 1.0f / 3.0f;
    for (int64_t o = 0; o < outer; o++, in += n * step, out += n * step) {
        for (int64_t i = 0; axis < 2 && i < n; i++) {
            const float *before = in + dg_max(i - 1, 0) * step, *at = in + i * step;
            const float *after = in + dg_min(i + 1, n - 1) * step;
            for (int64_t x = 0; x < step; x++) out[i * step + x] = (before[x] + at[x] + after[x]) * third;
        }
        if (axis < 2) continue;
        for (int64_t x = 1; x < n - 1; x++) out[x] = (in[x - 1] + in[x] + in[x + 1]) * third;
        out[0] = (in[0] + in[0] + in[n > 1]) * third;
        if (n > 1) out[n - 1] = (in[n - 2] + in[n - 1] + in[n - 1]) * third;
    }
}

/* One component, smoothed; returns which of the two (d, h, w) at `work` holds it, or `in` without smoothing. */
static const float *smoothed(const control_job *job, const float *in, float *work) {
    int64_t size = job->shape[0] * job->shape[1] * job->shape[2];
    float *next = work, *other = work + size;
    for (int64_t pass = 0; pass < 3 * job->smoothing; pass++) {
        smooth_axis(in, next, job->shape, (int)(pass % 3));
        float *swap = other;
        in = next, other = next, next = swap;
    }
    return in;
}

static float position(const control_job *job, int axis, int64_t i) {
    return ((float)i - 0.5f * (float)(job->shape[axis] - 1)) * job->ratio[axis] / job->reach;
}

static void field_component(void *context, int64_t c) {
    const control_job *job = context;
    int64_t d = job->shape[0], h = job->shape[1], w = job->shape[2], size = d * h * w;
    const float *in = smoothed(job, job->points + c * size, job->work + 2 * c * size), *a = job->affine + 4 * c;
    float *out = job->field + c * size, back = 1 / job->ratio[c];
    float start = a[2] * position(job, 2, 0), step = a[2] * job->ratio[2] / job->reach;
    for (int64_t z = 0; z < d; z++)
        for (int64_t y = 0; y < h; y++, in += w, out += w) {
            float rest = a[0] * position(job, 0, z) + a[1] * position(job, 1, y) + a[3] + start;
            for (int64_t x = 0; x < w; x++) out[x] = back * (in[x] + rest + step * (float)(int32_t)x);
        }
}

/* Displacement at the control points, in their voxels. */
DG_EXPORT void DG_NAME(dg_control_field)(const control_job *job) {
    dg_parallel(field_component, (void *)job, 3, job->threads);
}

static void pull_component(void *context, int64_t c) {
    const control_job *job = context;
    int64_t d = job->shape[0], h = job->shape[1], w = job->shape[2], size = d * h * w;
    const float *in = job->field + c * size;
    float *out = job->to_points + c * size, back = 1 / job->ratio[c];
    double sums[4] = {0};
    for (int64_t z = 0; z < d; z++)
        for (int64_t y = 0; y < h; y++, in += w, out += w) {
            float sum = 0, moment = 0;
            for (int64_t x = 0; x < w; x++) {
                out[x] = back * in[x];
                sum += out[x];
                moment += out[x] * position(job, 2, x);
            }
            sums[0] += (double)sum * position(job, 0, z);
            sums[1] += (double)sum * position(job, 1, y);
            sums[2] += moment;
            sums[3] += sum;
        }
    for (int i = 0; i < 4; i++) job->to_affine[4 * c + i] = (float)sums[i];
    out = job->to_points + c * size;
    const float *smooth = smoothed(job, out, job->work + 2 * c * size);
    if (smooth != out) memcpy(out, smooth, (size_t)size * sizeof(float));
}

/* The transpose of dg_control_field: from a derivative in job->field to those of the points and of the affine map. */
DG_EXPORT void DG_NAME(dg_control_pull)(const control_job *job) {
    dg_parallel(pull_component, (void *)job, 3, job->threads);
}

typedef struct {
    int64_t shape[3];
    const float *points;
    float weight;
    float *gradient; /* added to */
    float *work;     /* (3, 2, h, w) */
    double energy[3];
} bending_job;

/* One second derivative over a plane: its residual into r, its derivative into the gradient; returns the sum of squares.
 * The plane is taken as one line; where this wraps around from row to row, `inner` is 0. */
static double bend_plane(const float *in, float *out, const int64_t offsets[4], const float signs[4], int64_t n,
                         float slope, const float *restrict inner, float *restrict r) {
    const float *a = in + offsets[0], *b = in + offsets[1], *c = in + offsets[2], *d = in + offsets[3];
    float s0 = signs[0], s1 = signs[1], s2 = signs[2], s3 = signs[3], lanes[16] = {0};
    for (int64_t x = 0; x < n; x++) r[x] = inner[x] * (s0 * a[x] + s1 * b[x] + s2 * c[x] + s3 * d[x]);
    int64_t whole = n - n % 16;
    double total = 0;
    for (int64_t x = 0; x < whole; x += 16)
        for (int i = 0; i < 16; i++) lanes[i] += r[x + i] * r[x + i];
    for (int64_t x = whole; x < n; x++) lanes[x - whole] += r[x] * r[x];
    for (int i = 0; i < 16; i++) total += lanes[i];
    for (int k = 0; k < 4; k++) {
        float factor = signs[k] * slope;
        float *restrict to = out + offsets[k];
        for (int64_t x = 0; x < n; x++) to[x] += factor * r[x];
    }
    return total;
}

static void bend_component(void *context, int64_t c) {
    bending_job *job = context;
    int64_t d = job->shape[0], h = job->shape[1], w = job->shape[2], steps[3] = {h * w, w, 1};
    int64_t n = (h - 2) * w - 2; /* from the first inner voxel of a plane to its last */
    double count = 3.0 * (double)((d - 2) * (h - 2) * (w - 2)), total = 0;
    float *inner = job->work + 2 * c * h * w, *r = inner + h * w;
    for (int64_t x = 0; x < n; x++) inner[x] = (float)(x % w < w - 2);
    for (int64_t z = 1; z < d - 1; z++) {
        int64_t at = c * d * h * w + z * steps[0] + w + 1;
        const float *in = job->points + at;
        float *out = job->gradient + at;
        for (int i = 0; i < 3; i++) {
            int64_t twice[4] = {steps[i], -steps[i], 0, 0};
            const float second[4] = {1, 1, -1, -1}, mixed[4] = {1, -1, -1, 1};
            total += bend_plane(in, out, twice, second, n, (float)(2 * job->weight / count), inner, r);
            for (int j = i + 1; j < 3; j++) {
                int64_t a = steps[i], b = steps[j], corners[4] = {a + b, a - b, b - a, -a - b};
                /* the pair counts twice, and a mixed difference is a quarter of this */
                total += 0.125 * bend_plane(in, out, corners, mixed, n, (float)(0.25 * job->weight / count), inner, r);
            }
        }
    }
    job->energy[c] = total / count;
}

/* Bending energy of (3, d, h, w) points; `weight` times its derivative is added to the gradient. `work` has room for
 * (3, 2, h, w) floats. */
DG_EXPORT double DG_NAME(dg_bending)(const float *points, const int64_t *shape, float weight, float *gradient,
                                     float *work, int64_t threads) {
    bending_job job = {.shape = {shape[0], shape[1], shape[2]},
                       .points = points,
                       .weight = weight,
                       .gradient = gradient,
                       .work = work};
    dg_parallel(bend_component, &job, 3, threads);
    return job.energy[0] + job.energy[1] + job.energy[2];
}

static void cross(const float a[3], const float b[3], float out[3]) {
    out[0] = a[1] * b[2] - a[2] * b[1];
    out[1] = a[2] * b[0] - a[0] * b[2];
    out[2] = a[0] * b[1] - a[1] * b[0];
}

/* By how much the determinant at one point falls short, given back to the four points it is made of. */
static void unfold(const float *field, int64_t at, const int64_t steps[3], int64_t size, float slope, float *gradient) {
    float edges[3][3], normal[3];
    for (int axis = 0; axis < 3; axis++)
        for (int c = 0; c < 3; c++)
            edges[axis][c] = field[c * size + at + steps[axis]] - field[c * size + at] + (float)(axis == c);
    for (int axis = 0; axis < 3; axis++) {
        cross(edges[(axis + 1) % 3], edges[(axis + 2) % 3], normal);
        for (int c = 0; c < 3; c++) {
            gradient[c * size + at + steps[axis]] += slope * normal[c];
            gradient[c * size + at] -= slope * normal[c];
        }
    }
}

/* Shortfalls of one row of determinants below `least`. */
static void fold_row(const float *restrict f, int64_t n, const int64_t steps[3], int64_t size, float least,
                     float *restrict out) {
    const float *restrict g = f + size, *restrict k = f + 2 * size;
    int64_t z = steps[0], y = steps[1];
    for (int64_t x = 0; x < n; x++) {
        float a0 = f[x + z] - f[x] + 1, a1 = g[x + z] - g[x], a2 = k[x + z] - k[x];
        float b0 = f[x + y] - f[x], b1 = g[x + y] - g[x] + 1, b2 = k[x + y] - k[x];
        float c0 = f[x + 1] - f[x], c1 = g[x + 1] - g[x], c2 = k[x + 1] - k[x] + 1;
        float determinant = a0 * (b1 * c2 - b2 * c1) + a1 * (b2 * c0 - b0 * c2) + a2 * (b0 * c1 - b1 * c0);
        out[x] = least - determinant > 0 ? least - determinant : 0;
    }
}

/* Mean squared shortfall of the Jacobian determinant below `least`, by forward differences of a (3, d, h, w) field;
 * `weight` times its derivative is added to the gradient. `work` has room for w floats. */
DG_EXPORT double DG_NAME(dg_folding)(const float *field, const int64_t *shape, float least, float weight,
                                     float *gradient, float *work) {
    int64_t d = shape[0], h = shape[1], w = shape[2], size = d * h * w, steps[3] = {h * w, w, 1};
    double count = (double)((d - 1) * (h - 1) * (w - 1)), total = 0;
    for (int64_t z = 0; z < d - 1; z++)
        for (int64_t y = 0; y < h - 1; y++) {
            int64_t row = z * steps[0] + y * w;
            fold_row(field + row, w - 1, steps, size, least, work);
            for (int64_t x = 0; x < w - 1; x++) {
                if (!(work[x] > 0)) continue;
                total += (double)work[x] * work[x];
                unfold(field, row + x, steps, size, (float)(-2 * weight * work[x] / count), gradient);
            }
        }
    return total / count;
}

/* A step of Adam (Kingma & Ba 2015) with decays 0.9 and 0.999. `rate` and `unbias` are corrected for the number of
 * steps by the caller: rate / (1 - 0.9^n), 1 / (1 - 0.999^n). */
DG_EXPORT void DG_NAME(dg_adam)(float *restrict variable, const float *restrict gradient, float *restrict first,
                                float *restrict second, int64_t n, float rate, float unbias) {
    for (int64_t i = 0; i < n; i++) {
        first[i] += 0.1f * (gradient[i] - first[i]);
        second[i] += 0.001f * (gradient[i] * gradient[i] - second[i]);
        variable[i] -= rate * first[i] / (sqrtf(unbias * second[i]) + 1e-8f);
    }
}
