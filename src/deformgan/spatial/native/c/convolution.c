/* Convolutions with 3³ weights and stride 1, as Winograd's minimal filtering: along each axis two outputs take four
 * products in place of six, so eight voxels take 64 in place of 216. Volumes are (D, H, W, channels).
 *
 * A tile is a cube of 2³ outputs, made of 4³ inputs. Tiles are taken some at a time: their inputs are transformed, each
 * of the 64 points is a product of a matrix (tiles, inputs) with one of weights (inputs, outputs), and the products
 * are transformed back, all while they are in the cache.
 */
#include "lanes.h"

enum { POINTS = 64, SPARE = 16 }; /* SPARE floats keep the points from falling onto the same lines of the cache */

typedef struct {
    int64_t shape[3], inputs, outputs; /* D H W; channels */
    const float *in;      /* (D, H, W, inputs) */
    const float *weights; /* from dg_pack */
    const float *bias;    /* outputs, filled up to a multiple of 16 */
    const float *added;   /* to the result at last, like `out`; or NULL */
    float slope;          /* what a result below 0 is multiplied with; 1 leaves it */
    float *out;
    int64_t voxel, channel; /* how far the next voxel and the next channel are in `out` */
    int64_t tiles;          /* taken at a time, a multiple of 12 */
    int64_t groups;         /* of so many tiles, in one part of the work */
    float *scratch;         /* for each part 64 (tiles (K + 16) + 2 · 16) + K floats, K the inputs in 16s */
    int64_t threads;
} convolution_job;

static int64_t filled(int64_t channels) { return (channels + BLOCK - 1) / BLOCK * BLOCK; }

/* What two outputs need of four inputs in a row. */
#define SPREAD(d0, d1, d2, d3, to, step)    \
    do {                                    \
        lanes e0 = d0, e1 = d1, e2 = d2, e3 = d3; \
        *(lanes *)(to) = e0 - e2;           \
        *(lanes *)((to) + (step)) = e1 + e2;     \
        *(lanes *)((to) + 2 * (step)) = e2 - e1; \
        *(lanes *)((to) + 3 * (step)) = e1 - e3; \
    } while (0)

/* One vector of channels of the 4³ inputs of a tile → its 64 points, `plane` floats apart. */
static inline void transform_tile(const float *const corners[POINTS], int64_t channel, float *restrict to,
                                  int64_t plane) {
    float first[POINTS * LANES], second[POINTS * LANES];
#define VOXEL(i) (*(const lanes *)(corners[i] + channel))
    for (int q = 0; q < 16; q++)
        SPREAD(VOXEL(q), VOXEL(16 + q), VOXEL(32 + q), VOXEL(48 + q), first + LANES * q, 16 * LANES);
#undef VOXEL
#define AT(i) (*(const lanes *)(from + LANES * (i)))
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 4; k++) {
            const float *from = first + LANES * (16 * i + k);
            SPREAD(AT(0), AT(4), AT(8), AT(12), second + LANES * (16 * i + k), 4 * LANES);
        }
    for (int q = 0; q < 16; q++) {
        const float *from = second + LANES * 4 * q;
        SPREAD(AT(0), AT(1), AT(2), AT(3), to + 4 * q * plane, plane);
    }
#undef AT
}

static void place_of(const convolution_job *job, int64_t tile, int64_t first[3]) {
    int64_t h = (job->shape[1] + 1) / 2, w = (job->shape[2] + 1) / 2;
    first[0] = 2 * (tile / (h * w));
    first[1] = 2 * (tile / w % h);
    first[2] = 2 * (tile % w);
}

/* Where the 4³ inputs of a tile are; `nothing` where there is no voxel. */
static void corners_of(const convolution_job *job, int64_t tile, const float *nothing, const float *corners[POINTS]) {
    int64_t first[3], D = job->shape[0], H = job->shape[1], W = job->shape[2];
    place_of(job, tile, first);
    for (int i = 0; i < POINTS; i++) {
        int64_t z = first[0] - 1 + i / 16, y = first[1] - 1 + i / 4 % 4, x = first[2] - 1 + i % 4;
        int inside = z >= 0 && z < D && y >= 0 && y < H && x >= 0 && x < W;
        corners[i] = inside ? job->in + ((z * H + y) * W + x) * job->inputs : nothing;
    }
}

/* The inputs of a group of tiles, (64, tiles, inputs). `nothing` has as many zeros as there are inputs. */
__attribute__((noinline)) static void transform_inputs(const convolution_job *job, int64_t from, int64_t n, const float *nothing,
                             float *restrict points) {
    int64_t K = filled(job->inputs), whole = job->inputs / LANES * LANES, plane = job->tiles * K + SPARE;
    const float *corners[POINTS];
    float rest[POINTS * LANES] = {0};
    for (int64_t i = 0; i < n; i++) {
        corners_of(job, from + i, nothing, corners);
        for (int64_t c = 0; c < whole; c += LANES) transform_tile(corners, c, points + i * K + c, plane);
        if (whole == K) continue;
        for (int p = 0; p < POINTS; p++) {
            memcpy(rest + p * LANES, corners[p] + whole, (size_t)(job->inputs - whole) * sizeof(float));
            corners[p] = rest + p * LANES;
        }
        transform_tile(corners, 0, points + i * K + whole, plane);
        /* the second half of the last 16 where a vector is shorter than that */
        if (whole + LANES < K)
            for (int p = 0; p < POINTS; p++) memset(points + p * plane + i * K + whole + LANES, 0, sizeof(lanes));
    }
}

/* 16 channels of one voxel; fewer at the end, or apart from one another. */
static void store_some(const convolution_job *job, int64_t start, int64_t n, const float *values) {
    for (int64_t l = 0, to = start; l < n; l++, to += job->channel)
        job->out[to] = values[l] + (job->added ? job->added[to] : 0);
}

/* Products (64, tiles, 16) → the outputs of one tile, 16 channels of them. */
__attribute__((noinline)) static void transform_outputs(const convolution_job *job, int64_t tile, int64_t channel, const float *restrict sums,
                              int64_t plane) {
    float values[8 * BLOCK];
    for (int v = 0; v < VECTORS; v++) {
        lanes half[32], quarter[16];
        for (int p = 0; p < 16; p++) {
            const float *m = sums + p * plane + LANES * v;
            lanes m0 = *(const lanes *)m, m1 = *(const lanes *)(m + 16 * plane);
            lanes m2 = *(const lanes *)(m + 32 * plane), m3 = *(const lanes *)(m + 48 * plane);
            half[p] = m0 + m1 + m2;
            half[16 + p] = m1 - m2 - m3;
        }
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 4; k++) {
                const lanes *m = half + 16 * i + k;
                quarter[8 * i + k] = m[0] + m[4] + m[8];
                quarter[8 * i + 4 + k] = m[4] - m[8] - m[12];
            }
        lanes bias = *(const lanes *)(job->bias + channel + LANES * v);
        for (int i = 0; i < 4; i++) {
            const lanes *m = quarter + 4 * i;
            *(lanes *)(values + 2 * i * BLOCK + LANES * v) = activated(m[0] + m[1] + m[2] + bias, job->slope);
            *(lanes *)(values + (2 * i + 1) * BLOCK + LANES * v) = activated(m[1] - m[2] - m[3] + bias, job->slope);
        }
    }
    int64_t first[3], n = dg_min(BLOCK, job->outputs - channel);
    place_of(job, tile, first);
    for (int i = 0; i < 8; i++) {
        int64_t z = first[0] + i / 4, y = first[1] + i / 2 % 2, x = first[2] + i % 2;
        if (z >= job->shape[0] || y >= job->shape[1] || x >= job->shape[2]) continue;
        int64_t start = ((z * job->shape[1] + y) * job->shape[2] + x) * job->voxel + channel * job->channel;
        if (n < BLOCK || job->channel != 1) {
            store_some(job, start, n, values + i * BLOCK);
            continue;
        }
        for (int v = 0; v < BLOCK; v += LANES) {
            lanes value = *(const lanes *)(values + i * BLOCK + v);
            if (job->added) value += *(const lanes *)(job->added + start + v);
            *(lanes *)(job->out + start + v) = value;
        }
    }
}

static int64_t tiles_of(const convolution_job *job) {
    return ((job->shape[0] + 1) / 2) * ((job->shape[1] + 1) / 2) * ((job->shape[2] + 1) / 2);
}

static void convolve_part(void *context, int64_t part) {
    const convolution_job *job = context;
    int64_t T = job->tiles, K = filled(job->inputs), all = tiles_of(job);
    int64_t in_plane = T * K + SPARE, out_plane = T * BLOCK + SPARE;
    float *points = job->scratch + part * (POINTS * (in_plane + out_plane) + K), *sums = points + POINTS * in_plane;
    float *nothing = sums + POINTS * out_plane;
    memset(nothing, 0, (size_t)K * sizeof(float));
    for (int64_t g = part * job->groups; g < (part + 1) * job->groups && g * T < all; g++) {
        int64_t n = dg_min(T, all - g * T);
        transform_inputs(job, g * T, n, nothing, points);
        for (int64_t channel = 0; channel < job->outputs; channel += BLOCK) {
            const float *weights = job->weights + channel * POINTS * K;
            for (int64_t p = 0; p < POINTS; p++)
                for (int64_t r = 0; r < n; r += ROWS) /* rows after the last tile hold what was there */
                    product(points + p * in_plane + r * K, K, 1, weights + p * K * BLOCK, K,
                            sums + p * out_plane + r * BLOCK);
            for (int64_t i = 0; i < n; i++) transform_outputs(job, g * T + i, channel, sums + i * BLOCK, out_plane);
        }
    }
}

DG_EXPORT void DG_NAME(dg_convolve)(const convolution_job *job) {
    int64_t groups = (tiles_of(job) + job->tiles - 1) / job->tiles;
    dg_parallel(convolve_part, (void *)job, (groups + job->groups - 1) / job->groups, job->threads);
}

typedef struct {
    const float *weights; /* (outputs, inputs, 3, 3, 3) */
    int64_t outputs, inputs;
    float *out; /* (outputs in 16s, 64, inputs filled up, 16) */
} pack_job;

/* Along one axis of (n0, 3, n2) → (n0, 4, n2). */
static void spread_weights(const float *restrict in, int n0, int n2, float *restrict out) {
    for (int i = 0; i < n0; i++)
        for (int k = 0; k < n2; k++) {
            float g0 = in[(3 * i) * n2 + k], g1 = in[(3 * i + 1) * n2 + k], g2 = in[(3 * i + 2) * n2 + k];
            out[(4 * i) * n2 + k] = g0;
            out[(4 * i + 1) * n2 + k] = 0.5f * (g0 + g1 + g2);
            out[(4 * i + 2) * n2 + k] = 0.5f * (g0 - g1 + g2);
            out[(4 * i + 3) * n2 + k] = g2;
        }
}

static void pack_block(void *context, int64_t block) {
    const pack_job *job = context;
    int64_t K = filled(job->inputs), n = dg_min(BLOCK, job->outputs - block * BLOCK);
    float *restrict out = job->out + block * POINTS * K * BLOCK;
    float first[27 * BLOCK], second[36 * BLOCK], third[48 * BLOCK], last[64 * BLOCK];
    memset(first, 0, sizeof first);
    for (int64_t c = 0; c < K; c++) {
        for (int64_t l = 0; l < n && c < job->inputs; l++) {
            const float *from = job->weights + ((block * BLOCK + l) * job->inputs + c) * 27;
            for (int q = 0; q < 27; q++) first[q * BLOCK + l] = from[q];
        }
        if (c == job->inputs) memset(first, 0, sizeof first);
        spread_weights(first, 1, 9 * BLOCK, second);
        spread_weights(second, 4, 3 * BLOCK, third);
        spread_weights(third, 16, BLOCK, last);
        for (int p = 0; p < POINTS; p++) memcpy(out + (p * K + c) * BLOCK, last + p * BLOCK, BLOCK * sizeof(float));
    }
}

/* Weights as dg_convolve takes them. */
DG_EXPORT void DG_NAME(dg_pack)(const pack_job *job, int64_t threads) {
    dg_parallel(pack_block, (void *)job, (job->outputs + BLOCK - 1) / BLOCK, threads);
}
