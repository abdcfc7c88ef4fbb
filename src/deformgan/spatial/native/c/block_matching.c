/* How well the edges of two images match block by block, as they lie and with one of them shifted.
 *
 * Volumes are (D, H, W). Each thread takes some planes and goes through all shifts, so that what it sums stays in the
 * cache; the planes beside its own that a block reaches into are made again.
 */
#include "exponential.h"

typedef struct {
    int64_t shape[3];
    int64_t reach;        /* voxels of 0 around `theirs` */
    int64_t radius;       /* of a block */
    int64_t count, close; /* shifts; the first of them that are one voxel long along each axis that they are along */
    const float *ours;    /* (3, D, H, W) */
    const float *theirs;  /* (3, D + 2 reach, …) */
    const float *shares;  /* (D, H, W), what a block's sum is multiplied with */
    const int64_t *steps; /* (count, 3) */
    const float *lengths; /* of the shifts */
    float sharpness;
    float *out;     /* (4, D, H, W): agreement as they lie; the best, the mean of the close ones, the expected length */
    int64_t chunk;  /* planes that are one part of the work */
    float *scratch; /* for each part (2 chunk + 2 radius + 1) H W + W */
} block_matching_job;

enum { RUN = 64 };

/* Squared products of the edges in one plane, where the other image is shifted. */
static void square_plane(const block_matching_job *job, int64_t z, const int64_t step[3], float *restrict out) {
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2], r = job->reach;
    int64_t row = W + 2 * r, plane = (H + 2 * r) * row, own = D * H * W, other = (D + 2 * r) * plane;
    for (int64_t y = 0; y < H; y++) {
        const float *restrict a = job->ours + (z * H + y) * W, *restrict a1 = a + own, *restrict a2 = a1 + own;
        const float *restrict b = job->theirs + (z + r + step[0]) * plane + (y + r + step[1]) * row + r + step[2];
        const float *restrict b1 = b + other, *restrict b2 = b1 + other;
        for (int64_t x = 0; x < W; x++) {
            float product = a[x] * b[x] + a1[x] * b1[x] + a2[x] * b2[x];
            out[y * W + x] = product * product;
        }
    }
}

/* What a run of voxels is given by one shift, of which `there` is the agreement; the total of weights is in `total`. */
static void take_shift(const block_matching_job *job, int64_t k, const float *restrict there, int64_t at, int64_t n,
                       float *restrict total) {
    int64_t volume = job->shape[0] * job->shape[1] * job->shape[2];
    float *restrict best = job->out + volume + at, *restrict near = best + volume, *restrict length = near + volume;
    float likely[RUN], mm = job->lengths[k], part = k < job->close ? 1.0f / (float)job->close : 0;
    dg_exponentials(likely, there, 1, job->sharpness, n); /* no agreement is above 1 */
    for (int64_t i = 0; i < n; i++) {
        best[i] = there[i] > best[i] ? there[i] : best[i];
        near[i] += part * there[i];
        length[i] += mm * likely[i];
        total[i] += likely[i];
    }
}

static void matching_part(void *context, int64_t part) {
    const block_matching_job *job = context;
    int64_t D = job->shape[0], H = job->shape[1], W = job->shape[2], plane = H * W, volume = D * plane;
    int64_t from = part * job->chunk, to = dg_min(from + job->chunk, D);
    int64_t low = dg_max(from - job->radius, 0), high = dg_min(to + job->radius, D);
    float *sums = job->scratch + part * ((2 * job->chunk + 2 * job->radius + 1) * plane + W);
    float *square = sums + (job->chunk + 2 * job->radius) * plane, *line = square + plane, *totals = line + W;
    for (int64_t k = -1; k < job->count; k++) {
        static const int64_t none[3] = {0};
        for (int64_t z = low; z < high; z++) {
            square_plane(job, z, k < 0 ? none : job->steps + 3 * k, square);
            dg_box_plane(square, sums + (z - low) * plane, H, W, job->radius, line, NULL);
        }
        for (int64_t z = from; z < to; z++)
            for (int64_t x = 0; x < plane; x += RUN) {
                float there[RUN], *total = totals + (z - from) * plane + x;
                int64_t n = dg_min(RUN, plane - x), at = z * plane + x;
                dg_sum_items(there, sums + x, plane, z - low, high - low, NULL, job->radius, 0, n);
                for (int64_t i = 0; i < n; i++) there[i] *= job->shares[at + i];
                if (k >= 0) {
                    take_shift(job, k, there, at, n, total);
                    continue;
                }
                memcpy(job->out + at, there, (size_t)n * sizeof(float));
                memcpy(job->out + volume + at, there, (size_t)n * sizeof(float));
                dg_exponentials(total, there, 1, job->sharpness, n);
            }
    }
    float *length = job->out + 3 * volume + from * plane;
    for (int64_t i = 0; i < (to - from) * plane; i++) length[i] /= totals[i];
}

/* `out` but for its first volume is to hold 0; no shift is longer than `reach` along an axis. */
DG_EXPORT void DG_NAME(dg_block_matching)(const block_matching_job *job, int64_t threads) {
    dg_parallel(matching_part, (void *)job, (job->shape[0] + job->chunk - 1) / job->chunk, threads);
}
