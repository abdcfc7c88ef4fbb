/* Sampling images through a field, images and labels at any positions, and the greatest value around every voxel. */
#include "field.h"

typedef struct {
    coarse_field field;
    const float *image; /* (C, D', H', W'), or (D', H', W', C) if `last` */
    float *out;         /* (C, D, H, W) in either case */
    int64_t channels, last;
    float *scratch; /* working memory, for each part 3 h W + 4 W + C floats */
    int64_t chunk;  /* planes that are one part */
    int64_t threads;
    const int32_t *spans; /* (D, H, 2): of each row what is sampled, all else staying as it is; NULL: everything */
} warp_job;

static void widen(void *context, int64_t index) { field_widen(&((const warp_job *)context)->field, index); }

/* Steps from a voxel to the next along each axis; along one that has a single voxel there is no next. */
typedef struct {
    int64_t z, y, x;
} voxel_steps;

static voxel_steps steps_of(const int64_t target[3]) {
    voxel_steps steps = {target[0] > 1 ? target[1] * target[2] : 0, target[1] > 1 ? target[2] : 0, target[2] > 1};
    return steps;
}

static void sample_first(const warp_job *job, const int32_t *restrict at, const float *restrict fz,
                         const float *restrict fy, const float *restrict fx, int64_t n, float *out) {
    const int64_t *target = job->field.target, *own = job->field.shape;
    int64_t size = target[0] * target[1] * target[2], volume = own[0] * own[1] * own[2];
    voxel_steps step = steps_of(target);
    for (int64_t c = 0; c < job->channels; c++) {
        const float *restrict v = job->image + c * size;
        float *restrict row = out + c * volume;
        for (int64_t x = 0; x < n; x++) {
            const float *p = v + at[x], *q = p + step.z;
            float l00 = p[0] + fx[x] * (p[step.x] - p[0]);
            float l01 = p[step.y] + fx[x] * (p[step.y + step.x] - p[step.y]);
            float l10 = q[0] + fx[x] * (q[step.x] - q[0]);
            float l11 = q[step.y] + fx[x] * (q[step.y + step.x] - q[step.y]);
            float m0 = l00 + fy[x] * (l01 - l00), m1 = l10 + fy[x] * (l11 - l10);
            row[x] = m0 + fz[x] * (m1 - m0);
        }
    }
}

static void sample_last(const warp_job *job, const int32_t *restrict at, const float *restrict fz,
                        const float *restrict fy, const float *restrict fx, int64_t n, float *out,
                        float *restrict line) {
    const int64_t *own = job->field.shape;
    int64_t C = job->channels, volume = own[0] * own[1] * own[2];
    voxel_steps step = steps_of(job->field.target);
    for (int64_t x = 0; x < n; x++) {
        const float *restrict p = job->image + at[x] * C;
        float z = fz[x], y = fy[x], w = fx[x];
        float w00 = (1 - z) * (1 - y), w01 = (1 - z) * y, w10 = z * (1 - y), w11 = z * y;
        const float *corners[8] = {p, p + step.x * C};
        float weights[8] = {w00 * (1 - w), w00 * w, w01 * (1 - w), w01 * w, w10 * (1 - w), w10 * w, w11 * (1 - w), w11 * w};
        for (int i = 0; i < 2; i++) {
            corners[2 + i] = corners[i] + step.y * C;
            corners[4 + i] = corners[i] + step.z * C;
            corners[6 + i] = corners[i] + (step.z + step.y) * C;
        }
        for (int64_t c = 0; c < C; c++) line[c] = weights[0] * corners[0][c];
        for (int i = 1; i < 8; i++)
            for (int64_t c = 0; c < C; c++) line[c] += weights[i] * corners[i][c];
        for (int64_t c = 0; c < C; c++) out[c * volume + x] = line[c];
    }
}

static int any_span(const int32_t *spans, int64_t rows) {
    for (int64_t y = 0; y < rows; y++)
        if (spans[2 * y] < spans[2 * y + 1]) return 1;
    return 0;
}

static void warp_part(void *context, int64_t part) {
    const warp_job *job = context;
    const coarse_field *field = &job->field;
    int64_t H = field->shape[1], W = field->shape[2], lines = 3 * field->coarse[1] * W;
    float *memory = job->scratch + part * (lines + 4 * W + job->channels);
    float *fz = memory + lines, *fy = fz + W, *fx = fy + W;
    int32_t *at = (int32_t *)(fx + W);
    for (int64_t z = part * job->chunk; z < dg_min((part + 1) * job->chunk, field->shape[0]); z++) {
        const int32_t *spans = job->spans ? job->spans + 2 * z * H : NULL;
        if (spans && !any_span(spans, H)) continue;
        field_plane low = field_at(field, z, memory);
        for (int64_t y = 0; y < H; y++) {
            int64_t from = spans ? spans[2 * y] : 0, n = (spans ? spans[2 * y + 1] : W) - from;
            if (n <= 0) continue;
            float *out = job->out + (z * H + y) * W + from;
            field_locate(field, low, z, y, from, n, at, fz, fy, fx);
            if (job->last)
                sample_last(job, at, fz, fy, fx, n, out, fx + 2 * W);
            else
                sample_first(job, at, fz, fy, fx, n, out);
        }
    }
}

/* The image at x + u(x), linearly, its border value outside. */
DG_EXPORT void DG_NAME(dg_warp)(const warp_job *job) {
    if (job->field.lines) dg_parallel(widen, (void *)job, 3 * job->field.coarse[0], job->threads);
    dg_parallel(warp_part, (void *)job, (job->field.shape[0] + job->chunk - 1) / job->chunk, job->threads);
}

typedef struct {
    const void *image; /* (C, n0, n1, n2) float; of labels (n0, n1, n2) int32 */
    int64_t shape[3], channels;
    const float *at; /* (3, count): -1 and 1 are the outer faces of the voxels; the last axis comes first */
    int64_t count;
    void *out; /* (C, count) float; of labels (count) int32: where in the volume a voxel with the chosen one lies */
    int64_t threads;
} points_job;

enum { BLOCK = 256, PART = 1 << 14 };

/* What is left of a block of positions: the first of eight voxels, and how far behind it along each axis. */
static void locate_block(const points_job *job, int64_t from, int64_t n, int32_t *restrict at, float behind[3][BLOCK]) {
    memset(at, 0, (size_t)n * sizeof(int32_t));
    for (int axis = 0; axis < 3; axis++) {
        const float *restrict where = job->at + (2 - axis) * job->count + from;
        float *restrict rest = behind[axis], half = 0.5f * (float)job->shape[axis], end = (float)(job->shape[axis] - 1);
        int32_t size = (int32_t)job->shape[axis], last = size > 1 ? size - 2 : 0;
        for (int64_t i = 0; i < n; i++) {
            float p = dg_clamp((where[i] + 1) * half - 0.5f, 0, end);
            int32_t below = (int32_t)p;
            below = below < last ? below : last;
            rest[i] = p - (float)below;
            at[i] = at[i] * size + below;
        }
    }
}

static void points_part(void *context, int64_t part) {
    const points_job *job = context;
    int64_t size = job->shape[0] * job->shape[1] * job->shape[2], stop = dg_min((part + 1) * PART, job->count);
    voxel_steps step = steps_of(job->shape);
    int32_t at[BLOCK];
    float behind[3][BLOCK];
    for (int64_t from = part * PART; from < stop; from += BLOCK) {
        int64_t n = dg_min(BLOCK, stop - from);
        locate_block(job, from, n, at, behind);
        for (int64_t c = 0; c < job->channels; c++) {
            const float *restrict v = (const float *)job->image + c * size;
            float *restrict out = (float *)job->out + c * job->count + from;
            for (int64_t i = 0; i < n; i++) {
                const float *p = v + at[i], *q = p + step.z;
                float x = behind[2][i], y = behind[1][i];
                float l00 = p[0] + x * (p[step.x] - p[0]);
                float l01 = p[step.y] + x * (p[step.y + step.x] - p[step.y]);
                float l10 = q[0] + x * (q[step.x] - q[0]);
                float l11 = q[step.y] + x * (q[step.y + step.x] - q[step.y]);
                float m0 = l00 + y * (l01 - l00), m1 = l10 + y * (l11 - l10);
                out[i] = m0 + behind[0][i] * (m1 - m0);
            }
        }
    }
}

/* The image at any positions, linearly, its border value outside. */
DG_EXPORT void DG_NAME(dg_points)(const points_job *job) {
    dg_parallel(points_part, (void *)job, (job->count + PART - 1) / PART, job->threads);
}

/* The corner whose label has the largest share; of equal ones that of the nearest voxel. */
static int chosen(const int32_t *const *corners, const float *shares, int nearest) {
    int best = nearest;
    float most = 0;
    for (int j = 0; j < 8; j++) most += *corners[j] == *corners[nearest] ? shares[j] : 0;
    for (int i = 0; i < 8; i++) {
        float share = 0;
        for (int j = 0; j < 8; j++) share += *corners[j] == *corners[i] ? shares[j] : 0;
        if (share > most) most = share, best = i;
    }
    return best;
}

static void vote_part(void *context, int64_t part) {
    const points_job *job = context;
    int64_t stop = dg_min((part + 1) * PART, job->count);
    voxel_steps step = steps_of(job->shape);
    const int32_t *labels = job->image;
    int32_t at[BLOCK], *out = job->out;
    float behind[3][BLOCK];
    for (int64_t from = part * PART; from < stop; from += BLOCK) {
        int64_t n = dg_min(BLOCK, stop - from);
        locate_block(job, from, n, at, behind);
        for (int64_t i = 0; i < n; i++) {
            float z = behind[0][i], y = behind[1][i], x = behind[2][i];
            int corner = 4 * (z >= 0.5f) + 2 * (y >= 0.5f) + (x >= 0.5f);
            const int32_t *corners[8];
            int32_t differ = 0;
            for (int c = 0; c < 8; c++) {
                corners[c] = labels + at[i] + (c >> 2) * step.z + (c >> 1 & 1) * step.y + (c & 1) * step.x;
                differ |= *corners[c] ^ *corners[0];
            }
            if (differ) {
                float shares[8];
                for (int c = 0; c < 8; c++)
                    shares[c] = (c >> 2 ? z : 1 - z) * (c >> 1 & 1 ? y : 1 - y) * (c & 1 ? x : 1 - x);
                corner = chosen(corners, shares, corner);
            }
            out[from + i] = (int32_t)(corners[corner] - labels);
        }
    }
}

/* For any positions, the voxel whose label has the largest share there, the border voxel outside. */
DG_EXPORT void DG_NAME(dg_vote)(const points_job *job) {
    dg_parallel(vote_part, (void *)job, (job->count + PART - 1) / PART, job->threads);
}

typedef struct {
    const float *in;
    float *between, *out;
    int64_t shape[3], radius;
} maximum_job;

static void raise(float *restrict out, const float *restrict in, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = in[i] > out[i] ? in[i] : out[i];
}

/* The greatest of each row's neighbours along x and y in one plane. */
static void maximum_in_plane(void *context, int64_t z) {
    const maximum_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], r = job->radius;
    const float *in = job->in + z * H * W;
    /* along y into `between`, then along x into `out`, whose plane is free until the end */
    float *rows = job->out + z * H * W, *made = job->between + z * H * W;
    for (int64_t y = 0; y < H; y++) {
        memcpy(rows + y * W, in + y * W, (size_t)W * sizeof(float));
        for (int64_t k = dg_max(y - r, 0); k <= dg_min(y + r, H - 1); k++) raise(rows + y * W, in + k * W, W);
    }
    memcpy(made, rows, (size_t)(H * W) * sizeof(float));
    for (int64_t y = 0; y < H; y++)
        for (int64_t k = 1; k <= dg_min(r, W - 1); k++) {
            raise(made + y * W + k, rows + y * W, W - k);
            raise(made + y * W, rows + y * W + k, W - k);
        }
}

static void maximum_across(void *context, int64_t z) {
    const maximum_job *job = context;
    int64_t plane = job->shape[1] * job->shape[2], r = job->radius;
    float *out = job->out + z * plane;
    memcpy(out, job->between + z * plane, (size_t)plane * sizeof(float));
    for (int64_t k = dg_max(z - r, 0); k <= dg_min(z + r, job->shape[0] - 1); k++)
        if (k != z) raise(out, job->between + k * plane, plane);
}

/* The greatest value in the cube of 2 radius + 1 voxels around every voxel of (D, H, W). `between` is working memory of
 * that size. */
DG_EXPORT void DG_NAME(dg_maximum)(const float *in, const int64_t *shape, int64_t radius, float *between, float *out,
                                   int64_t threads) {
    maximum_job job = {.in = in, .between = between, .out = out, .shape = {shape[0], shape[1], shape[2]}, .radius = radius};
    dg_parallel(maximum_in_plane, &job, shape[0], threads);
    dg_parallel(maximum_across, &job, shape[0], threads);
}
