/* Normalised mutual information of sampled points with a volume, under many linear maps, and its derivative.
 *
 * What is computed is defined by deformgan.align.similarity.nmi_score: each value is spread over the two bins beside it,
 * values beyond the outer voxels' centres are those of the border, points outside the volume do not count.
 */
#include "common.h"

enum { BINS = 8, CELLS = BINS * BINS, KEPT = 5 };

typedef struct {
    int64_t shape[3]; /* of the volume, (D, H, W) */
    int64_t points, maps, parts, threads; /* maps are scored in so many parts, on so many threads */
    const float *at;       /* (points, 3): x, y, z in millimetres */
    const int64_t *fixed;  /* (points): bins */
    const float *volume;   /* in [0, 1] */
    const float *excluded; /* of its voxels, or NULL */
    double needed;         /* points that must be inside for the full score */
    const float *matrices; /* (maps, 3, 4): from `at` to voxels, along W, H and D */
    float *scores;         /* (maps) */
    float *slope;          /* (maps, 3, 4): of the scores with respect to the matrices, or NULL */
    float *scratch;        /* KEPT for each point and part */
} information_job;

/* The voxels on both sides of x, and the weight of the second; whether a step along the axis changes anything. */
typedef struct {
    int64_t low, high;
    float t, moves;
} place;

static place beside(float x, int64_t n) {
    float last = (float)(n - 1), in = dg_clamp(x, 0, last);
    int64_t low = dg_min((int64_t)in, dg_max(n - 2, 0));
    place p = {low, dg_min(low + 1, n - 1), in - (float)low, (float)(x >= 0 && x <= last)};
    return p;
}

static float mixed(float a, float b, float t) { return a + t * (b - a); }

/* The share of a voxel's neighbourhood at a position that is excluded; 0 outside the volume. */
static float excluded_at(const information_job *job, const float x[3]) {
    const int64_t *n = job->shape;
    float total = 0, low[3] = {floorf(x[0]), floorf(x[1]), floorf(x[2])};
    for (int corner = 0; corner < 8; corner++) {
        float share = 1;
        int64_t i[3];
        for (int a = 0; a < 3; a++) {
            int up = corner >> a & 1;
            float t = x[a] - low[a];
            share *= up ? t : 1 - t;
            i[a] = (int64_t)low[a] + up;
            if (i[a] < 0 || i[a] >= n[2 - a]) share = 0;
        }
        if (share > 0) total += share * job->excluded[(i[2] * n[1] + i[1]) * n[2] + i[0]];
    }
    return total;
}

/* Of one point: value in bins, share that counts, and the value's derivative along W, H and D, into kept. */
static void sample(const information_job *job, const float *m, const float *p, float *kept) {
    const int64_t *n = job->shape;
    float x[3];
    kept[1] = 1;
    for (int a = 0; a < 3; a++) {
        x[a] = m[4 * a] * p[0] + m[4 * a + 1] * p[1] + m[4 * a + 2] * p[2] + m[4 * a + 3];
        if (!(x[a] >= -0.5f && x[a] <= (float)n[2 - a] - 0.5f)) kept[1] = 0;
    }
    kept[0] = kept[2] = kept[3] = kept[4] = 0;
    if (kept[1] == 0) return;
    if (job->excluded != NULL) kept[1] = 1 - excluded_at(job, x);
    place w = beside(x[0], n[2]), h = beside(x[1], n[1]), d = beside(x[2], n[0]);
    const float *planes[2] = {job->volume + d.low * n[1] * n[2], job->volume + d.high * n[1] * n[2]};
    float value[2], across[2], along[2];
    for (int k = 0; k < 2; k++) {
        const float *first = planes[k] + h.low * n[2], *second = planes[k] + h.high * n[2];
        float a = mixed(first[w.low], first[w.high], w.t), b = mixed(second[w.low], second[w.high], w.t);
        along[k] = mixed(first[w.high] - first[w.low], second[w.high] - second[w.low], h.t);
        value[k] = mixed(a, b, h.t);
        across[k] = b - a;
    }
    const float bins = BINS - 1;
    kept[0] = bins * mixed(value[0], value[1], d.t);
    kept[2] = bins * w.moves * mixed(along[0], along[1], d.t);
    kept[3] = bins * h.moves * mixed(across[0], across[1], d.t);
    kept[4] = bins * d.moves * (value[1] - value[0]);
}

static int64_t lower_bin(float value) { return (int64_t)dg_clamp(value, 0, BINS - 2); }

static const double LEAST = 1e-9; /* probability */

static double entropy(const double *p, int n) {
    double total = 0;
    for (int i = 0; i < n; i++) total -= fmax(p[i], LEAST) * log(fmax(p[i], LEAST));
    return total;
}

static double entropy_slope(double p) { return p < LEAST ? 0 : -log(p) - 1; }

/* The score of a joint histogram whose sum is `seen`, and its derivative with respect to what falls into each cell,
 * if it is asked for. */
static double scored(const double *counts, double seen, double needed, double *slope) {
    double joint[CELLS], rows[BINS] = {0}, columns[BINS] = {0}, sum = fmax(seen, 1);
    for (int i = 0; i < CELLS; i++) {
        joint[i] = counts[i] / sum;
        rows[i / BINS] += joint[i];
        columns[i % BINS] += joint[i];
    }
    double found = entropy(rows, BINS) + entropy(columns, BINS), alone = fmax(found, 1e-6);
    double shared = found - entropy(joint, CELLS), covered = fmin(seen / needed, 1);
    for (int i = 0; i < CELLS && slope != NULL; i++) {
        double of_alone = entropy_slope(rows[i / BINS]) + entropy_slope(columns[i % BINS]);
        double of_shared = of_alone - entropy_slope(joint[i]);
        double clamped = found < 1e-6 ? 0 : shared * of_alone / alone;
        slope[i] = 2 * covered * (of_shared - clamped) / alone / sum;
    }
    return 2 * shared / alone * covered;
}

static void score_map(const information_job *job, int64_t map, float *scratch) {
    const float *matrix = job->matrices + 12 * map;
    double counts[CELLS] = {0}, slope[CELLS], seen = 0, gradient[12] = {0};
    for (int64_t i = 0; i < job->points; i++) {
        float *kept = scratch + KEPT * i;
        sample(job, matrix, job->at + 3 * i, kept);
        if (kept[1] == 0) continue;
        int64_t low = lower_bin(kept[0]);
        double part = (kept[0] - (float)low) * kept[1], *cell = counts + job->fixed[i] * BINS + low;
        cell[0] += kept[1] - part;
        cell[1] += part;
        seen += kept[1];
    }
    job->scores[map] = (float)scored(counts, seen, job->needed, job->slope == NULL ? NULL : slope);
    if (job->slope == NULL) return;
    for (int64_t i = 0; i < job->points; i++) {
        const float *kept = scratch + KEPT * i, *at = job->at + 3 * i;
        if (kept[1] == 0) continue;
        const double *cell = slope + job->fixed[i] * BINS + lower_bin(kept[0]);
        double rise = (cell[1] - cell[0]) * kept[1];
        for (int a = 0; a < 3; a++) {
            double along = rise * kept[2 + a];
            for (int k = 0; k < 3; k++) gradient[4 * a + k] += along * at[k];
            gradient[4 * a + 3] += along;
        }
    }
    for (int k = 0; k < 12; k++) job->slope[12 * map + k] = (float)gradient[k];
}

static void score_part(void *context, int64_t part) {
    const information_job *job = context;
    int64_t from = part * job->maps / job->parts, to = (part + 1) * job->maps / job->parts;
    for (int64_t map = from; map < to; map++) score_map(job, map, job->scratch + KEPT * job->points * part);
}

DG_EXPORT void DG_NAME(dg_information)(const information_job *job) {
    dg_parallel(score_part, (void *)job, job->parts, job->threads);
}
