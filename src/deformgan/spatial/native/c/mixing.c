/* Channels mixed voxel by voxel (a convolution with 1³ weights), and coarse features added to finer ones. */
#include "lanes.h"

enum { VOXELS = 96 }; /* mixed at a time: a multiple of ROWS */

typedef struct {
    int64_t count, inputs, outputs; /* voxels; channels */
    const float *in;      /* (inputs, count) */
    const float *weights; /* (outputs in 16s, inputs, 16) */
    const float *bias;    /* outputs, filled up to a multiple of 16 */
    float slope;          /* what a result below 0 is multiplied with; 1 leaves it */
    float *out;           /* (count, outputs) */
    int64_t chunk;        /* voxels of one part, a multiple of VOXELS */
    float *scratch;       /* for each part VOXELS (inputs + 16) floats */
    int64_t threads;
} mixing_job;

static void mix_part(void *context, int64_t part) {
    const mixing_job *job = context;
    int64_t K = job->inputs, stop = dg_min((part + 1) * job->chunk, job->count);
    float *panel = job->scratch + part * VOXELS * (K + BLOCK), *sums = panel + VOXELS * K;
    memset(panel, 0, (size_t)(VOXELS * K) * sizeof(float));
    for (int64_t from = part * job->chunk; from < stop; from += VOXELS) {
        int64_t n = dg_min(VOXELS, stop - from);
        for (int64_t k = 0; k < K; k++)
            memcpy(panel + k * VOXELS, job->in + k * job->count + from, (size_t)n * sizeof(float));
        for (int64_t channel = 0; channel < job->outputs; channel += BLOCK) {
            for (int64_t r = 0; r < VOXELS; r += ROWS)
                product(panel + r, 1, VOXELS, job->weights + channel * K, K, sums + r * BLOCK);
            size_t size = (size_t)dg_min(BLOCK, job->outputs - channel) * sizeof(float);
            for (int64_t i = 0; i < n; i++) {
                float *row = sums + i * BLOCK;
                for (int v = 0; v < BLOCK; v += LANES)
                    *(lanes *)(row + v) = activated(*(lanes *)(row + v) + *(const lanes *)(job->bias + channel + v), job->slope);
                memcpy(job->out + (from + i) * job->outputs + channel, row, size);
            }
        }
    }
}

DG_EXPORT void DG_NAME(dg_mix)(const mixing_job *job) {
    dg_parallel(mix_part, (void *)job, (job->count + job->chunk - 1) / job->chunk, job->threads);
}

typedef struct {
    int64_t shape[3], coarse[3], channels; /* D H W; d h w */
    const int32_t *below[3], *above[3];    /* linear interpolation along each axis, see axis_map in field.h */
    const float *share[3];
    const float *in;    /* (d, h, w, channels) */
    const float *added; /* (D, H, W, channels) */
    float *out;         /* (D, H, W, channels) */
    int64_t threads;
} enlarging_job;

static void enlarge_plane(void *context, int64_t z) {
    const enlarging_job *job = context;
    int64_t H = job->shape[1], W = job->shape[2], h = job->coarse[1], w = job->coarse[2], C = job->channels;
    float fz = job->share[0][z];
    for (int64_t y = 0; y < H; y++) {
        float fy = job->share[1][y];
        float shares[4] = {(1 - fz) * (1 - fy), (1 - fz) * fy, fz * (1 - fy), fz * fy};
        const float *rows[4];
        for (int i = 0; i < 4; i++) {
            int64_t a = (i < 2 ? job->below : job->above)[0][z], b = (i % 2 ? job->above : job->below)[1][y];
            rows[i] = job->in + (a * h + b) * w * C;
        }
        for (int64_t x = 0; x < W; x++) {
            int64_t start = ((z * H + y) * W + x) * C, low = job->below[2][x] * C, high = job->above[2][x] * C;
            const float *restrict added = job->added + start;
            float *restrict out = job->out + start, f = job->share[2][x];
            for (int64_t c = 0; c < C; c++) {
                float first = 0, second = 0;
                for (int i = 0; i < 4; i++) {
                    first += shares[i] * rows[i][low + c];
                    second += shares[i] * rows[i][high + c];
                }
                out[c] = added[c] + first + f * (second - first);
            }
        }
    }
}

/* Features interpolated linearly, and others added to them. */
DG_EXPORT void DG_NAME(dg_add_enlarged)(const enlarging_job *job) {
    dg_parallel(enlarge_plane, (void *)job, job->shape[0], job->threads);
}
