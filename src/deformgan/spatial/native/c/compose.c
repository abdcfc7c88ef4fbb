/* How a fluid registration steps on: the longest update, and a shortened update composed with the field so far. */
#include "rows.h"

enum { LANE = 64 };
#define EIGHT(at) (*(const dg_eight *)(at))

typedef struct {
    const float *field, *update; /* (3, D, H, W) in voxels */
    int64_t shape[3];
    /* a vector of the usual length becomes as long as `most`, longer ones no longer, shorter ones in proportion */
    float usual, most;
    int64_t near;  /* whether `most` is below a voxel */
    float *out;    /* (3, D, H, W) */
    float *length; /* (D): the longest squared update */
    int64_t threads;
} compose_job;

static void longest_plane(void *context, int64_t z) {
    const compose_job *job = context;
    int64_t plane = job->shape[1] * job->shape[2], volume = job->shape[0] * plane;
    const float *restrict u0 = job->update + z * plane, *restrict u1 = u0 + volume, *restrict u2 = u1 + volume;
    float lanes[16] = {0}, most = 0;
    int64_t whole = plane / 16 * 16;
    int broken = 0;
    for (int64_t from = 0; from < whole; from += 16)
        for (int i = 0; i < 16; i++) {
            float a = u0[from + i], b = u1[from + i], c = u2[from + i], square = a * a + b * b + c * c;
            broken |= !(square < INFINITY);
            lanes[i] = square > lanes[i] ? square : lanes[i];
        }
    for (int64_t x = whole; x < plane; x++) {
        float square = u0[x] * u0[x] + u1[x] * u1[x] + u2[x] * u2[x];
        broken |= !(square < INFINITY);
        most = square > most ? square : most;
    }
    for (int i = 0; i < 16; i++) most = lanes[i] > most ? lanes[i] : most;
    job->length[z] = broken ? INFINITY : most;
}

/* The longest vector of `update`, squared, for each plane; infinite where one is not finite. */
DG_EXPORT void DG_NAME(dg_longest)(const compose_job *job) {
    dg_parallel(longest_plane, (void *)job, job->shape[0], job->threads);
}

/* A run of the update, shortened. */
static void shorten_run(const compose_job *job, int64_t at, int64_t n, float u[3][LANE]) {
    int64_t volume = job->shape[0] * job->shape[1] * job->shape[2];
    const float *restrict v0 = job->update + at, *restrict v1 = v0 + volume, *restrict v2 = v1 + volume;
    float floor = job->usual * job->usual;
    for (int64_t i = 0; i < n; i++) {
        float square = v0[i] * v0[i] + v1[i] * v1[i] + v2[i] * v2[i];
        float factor = job->most / sqrtf(square > floor ? square : floor);
        u[0][i] = factor * v0[i], u[1][i] = factor * v1[i], u[2][i] = factor * v2[i];
    }
}

static void compose_run(const compose_job *job, int64_t z, int64_t y, int64_t from, int64_t n) {
    int64_t H = job->shape[1], W = job->shape[2], plane = H * W, volume = job->shape[0] * plane;
    int64_t at = z * plane + y * W + from, place[3] = {z, y, from};
    int32_t index[LANE];
    float rest[3][LANE], update[3][LANE];
    memset(index, 0, sizeof index);
    shorten_run(job, at, n, update);
    for (int axis = 0; axis < 3; axis++) {
        const float *restrict u = update[axis];
        float start = (float)place[axis], step = axis == 2, end = (float)(job->shape[axis] - 1);
        int32_t size = (int32_t)job->shape[axis], last = size > 1 ? size - 2 : 0;
        for (int64_t i = 0; i < n; i++) {
            float p = dg_clamp(start + step * (float)(int32_t)i + u[i], 0, end);
            int32_t below = (int32_t)p;
            below = below < last ? below : last;
            rest[axis][i] = p - (float)below;
            index[i] = index[i] * size + below;
        }
    }
    int64_t dz = job->shape[0] > 1 ? plane : 0, dy = H > 1 ? W : 0, dx = W > 1;
    for (int c = 0; c < 3; c++) {
        const float *restrict v = job->field + c * volume, *restrict u = update[c];
        float *restrict out = job->out + c * volume + at;
        for (int64_t i = 0; i < n; i++) {
            const float *p = v + index[i], *q = p + dz;
            float fx = rest[2][i], fy = rest[1][i];
            float l00 = p[0] + fx * (p[dx] - p[0]), l01 = p[dy] + fx * (p[dy + dx] - p[dy]);
            float l10 = q[0] + fx * (q[dx] - q[0]), l11 = q[dy] + fx * (q[dy + dx] - q[dy]);
            float m0 = l00 + fy * (l01 - l00), m1 = l10 + fy * (l11 - l10);
            out[i] = u[i] + (m0 + rest[0][i] * (m1 - m0));
        }
    }
}

/* The same where every update is shorter than a voxel: its weights then are those of the voxel and its neighbours, which
 * lie side by side in memory. Voxels from .. from + n - 1 are neither the first nor the last of their row. */
static void compose_near(const compose_job *job, int64_t z, int64_t y, int64_t from, int64_t n) {
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2], plane = H * W, volume = D * plane;
    int64_t at = z * plane + y * W + from, place[2] = {z, y};
    float share[3][3][LANE], update[3][LANE];
    shorten_run(job, at, n, update);
    for (int axis = 0; axis < 3; axis++) {
        const float *restrict u = update[axis];
        /* at the border there is nothing beyond */
        float low = axis < 2 && place[axis] == 0 ? 0 : -1, high = axis < 2 && place[axis] == job->shape[axis] - 1 ? 0 : 1;
        for (int64_t i = 0; i < n; i++) {
            float p = dg_clamp(u[i], low, high);
            share[axis][0][i] = p < 0 ? -p : 0;
            share[axis][2][i] = p > 0 ? p : 0;
            share[axis][1][i] = 1 - (p < 0 ? -p : p);
        }
    }
    int64_t rows[3][3];
    for (int k = 0; k < 3; k++)
        for (int j = 0; j < 3; j++)
            rows[k][j] = dg_min(dg_max(z + k - 1, 0), D - 1) * plane + dg_min(dg_max(y + j - 1, 0), H - 1) * W + from;
    int64_t done = n / 8 * 8;
    for (int64_t i = 0; i < done; i += 8)
        for (int c = 0; c < 3; c++) {
            dg_eight sum = EIGHT(update[c] + i);
            for (int k = 0; k < 3; k++) {
                dg_eight part = {0};
                for (int j = 0; j < 3; j++) {
                    const float *row = job->field + c * volume + rows[k][j] + i;
                    part += EIGHT(share[1][j] + i) * (EIGHT(share[2][0] + i) * EIGHT(row - 1) +
                                                      EIGHT(share[2][1] + i) * EIGHT(row) +
                                                      EIGHT(share[2][2] + i) * EIGHT(row + 1));
                }
                sum += EIGHT(share[0][k] + i) * part;
            }
            *(dg_eight *)(job->out + c * volume + at + i) = sum;
        }
    if (done < n) compose_run(job, z, y, from + done, n - done);
}

static void compose_plane(void *context, int64_t z) {
    const compose_job *job = context;
    int64_t W = job->shape[2];
    for (int64_t y = 0; y < job->shape[1]; y++) {
        if (!job->near || W < 3) {
            for (int64_t from = 0; from < W; from += LANE) compose_run(job, z, y, from, dg_min(LANE, W - from));
            continue;
        }
        compose_run(job, z, y, 0, 1);
        for (int64_t from = 1; from < W - 1; from += LANE) compose_near(job, z, y, from, dg_min(LANE, W - 1 - from));
        compose_run(job, z, y, W - 1, 1);
    }
}

/* u + field(x + u), u being the shortened update: what was there is taken from where it leads. */
DG_EXPORT void DG_NAME(dg_compose)(const compose_job *job) {
    dg_parallel(compose_plane, (void *)job, job->shape[0], job->threads);
}
