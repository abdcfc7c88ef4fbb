/* Volumes moved between grids whose axes are parallel, the Jacobian determinant, and the inverse of a field.
 *
 * Volumes are (C, n0, n1, n2), the last axis contiguous.
 */
#include "eights.h"

/* Linear interpolation along an axis: sample i is (1 - t[i]) source[below[i]] + t[i] source[above[i]]. */
typedef struct {
    const int32_t *below, *above;
    const float *t;
} line_map;

typedef struct {
    const float *values;    /* (C, w, h, d) */
    int64_t strides[3];     /* floats from channel to channel, and along w and h; rows along d are contiguous */
    int64_t size, channels; /* d; C, which is 3 where there is a matrix or a ramp */
    line_map axes[3];
    int64_t shape[3]; /* of the grid that is wanted: count, H, D; the axes begin where it does */
    int64_t same;     /* whether the last axis stays as it is */
    const float *matrix;         /* 3×3 that the vectors are multiplied with, or NULL */
    const float *plane, *steps;  /* (3, H, D) and (3, count), which are added; or NULL */
    float rounding;              /* values become multiples of it; 0: they stay */
    float *out;                  /* (C, count, H, D) */
    int64_t apart;               /* floats from channel to channel of it */
    float *scratch;              /* for each of the `count` planes 2 C d floats */
    int64_t threads;
} resample_job;

static void blend(float *restrict out, const float *restrict a, const float *restrict b, float t, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = a[i] + t * (b[i] - a[i]);
}

/* Between four rows: along w and h. */
static void blend_rows(const resample_job *job, int64_t c, int64_t k, int64_t j, float *out) {
    const line_map *w = &job->axes[0], *h = &job->axes[1];
    const float *base = job->values + c * job->strides[0];
    const float *a = base + w->below[k] * job->strides[1], *b = base + w->above[k] * job->strides[1];
    int64_t low = h->below[j] * job->strides[2], high = h->above[j] * job->strides[2];
    float s = w->t[k], t = h->t[j];
    if (s == 0 && t == 0) {
        memcpy(out, a + low, (size_t)job->size * sizeof(float));
    } else if (s == 0) {
        blend(out, a + low, a + high, t, job->size);
    } else if (t == 0) {
        blend(out, a + low, b + low, s, job->size);
    } else {
        const float *restrict a0 = a + low, *restrict a1 = a + high, *restrict b0 = b + low, *restrict b1 = b + high;
        for (int64_t i = 0; i < job->size; i++) {
            float p = a0[i] + s * (b0[i] - a0[i]), q = a1[i] + s * (b1[i] - a1[i]);
            out[i] = p + t * (q - p);
        }
    }
}

/* The three components of a row times the matrix, into the second half of the plane's memory. */
static const float *mix_rows(const resample_job *job, const float *restrict rows, float *restrict out) {
    int64_t n = job->size;
    for (int c = 0; c < 3; c++) {
        float m0 = job->matrix[3 * c], m1 = job->matrix[3 * c + 1], m2 = job->matrix[3 * c + 2];
        for (int64_t i = 0; i < n; i++) out[c * n + i] = m0 * rows[i] + m1 * rows[n + i] + m2 * rows[2 * n + i];
    }
    return out;
}

static void widen_row(const resample_job *job, const float *restrict row, float *restrict out) {
    const line_map *d = &job->axes[2];
    const int32_t *restrict below = d->below, *restrict above = d->above;
    const float *restrict t = d->t;
    if (job->same)
        memcpy(out, row, (size_t)job->shape[2] * sizeof(float));
    else
        for (int64_t i = 0; i < job->shape[2]; i++) out[i] = row[below[i]] + t[i] * (row[above[i]] - row[below[i]]);
}

static void resample_plane(void *context, int64_t k) {
    const resample_job *job = context;
    int64_t H = job->shape[1], D = job->shape[2], C = job->channels;
    float *rows = job->scratch + 2 * k * C * job->size;
    for (int64_t j = 0; j < H; j++) {
        for (int64_t c = 0; c < C; c++) blend_rows(job, c, k, j, rows + c * job->size);
        const float *ready = job->matrix ? mix_rows(job, rows, rows + C * job->size) : rows;
        for (int64_t c = 0; c < C; c++) {
            float *restrict out = job->out + c * job->apart + (k * H + j) * D;
            widen_row(job, ready + c * job->size, out);
            if (job->plane) {
                const float *restrict plane = job->plane + (c * H + j) * D;
                float step = job->steps[c * job->shape[0] + k];
                for (int64_t i = 0; i < D; i++) out[i] += plane[i] + step;
            }
            if (job->rounding > 0) {
                float up = 1 / job->rounding, down = job->rounding;
                for (int64_t i = 0; i < D; i++) out[i] = down * rintf(up * out[i]);
            }
        }
    }
}

/* A volume on another grid whose axes are parallel to its own. */
DG_EXPORT void DG_NAME(dg_resample)(const resample_job *job) {
    dg_parallel(resample_plane, (void *)job, job->shape[0], job->threads);
}

typedef struct {
    const float *field; /* (3, n0, n1, n2) */
    int64_t shape[3];
    float base[9]; /* derivative of the map without its field: component (row) by axis (column) */
    float factor;
    float *out; /* (n0, n1, n2) */
    int64_t threads;
} jacobian_job;

static void jacobian_row(const jacobian_job *job, int64_t z, int64_t y, float *restrict out) {
    int64_t n0 = job->shape[0], n1 = job->shape[1], n = job->shape[2], plane = n1 * n, volume = n0 * plane;
    int64_t z0 = z > 0 ? z - 1 : z, z1 = z < n0 - 1 ? z + 1 : z, y0 = y > 0 ? y - 1 : y, y1 = y < n1 - 1 ? y + 1 : y;
    float half_z = 1.0f / (float)(z1 - z0), half_y = 1.0f / (float)(y1 - y0);
    const float *restrict f0 = job->field, *restrict f1 = f0 + volume, *restrict f2 = f1 + volume;
    int64_t a = z0 * plane + y * n, b = z1 * plane + y * n, c = z * plane + y0 * n, d = z * plane + y1 * n,
            e = z * plane + y * n;
    for (int part = 0; part < 3; part++) {
        /* both ends, and what lies between them */
        int64_t from = part == 0 ? 0 : part == 1 ? 1 : n - 1, to = part == 0 ? 1 : part == 1 ? n - 1 : n;
        int64_t back = part == 0 ? 0 : 1, ahead = part == 2 ? 0 : 1;
        float half_x = part == 1 ? 0.5f : 1.0f;
        for (int64_t x = from; x < to; x++) {
            float j00 = job->base[0] + half_z * (f0[b + x] - f0[a + x]);
            float j01 = job->base[1] + half_y * (f0[d + x] - f0[c + x]);
            float j02 = job->base[2] + half_x * (f0[e + x + ahead] - f0[e + x - back]);
            float j10 = job->base[3] + half_z * (f1[b + x] - f1[a + x]);
            float j11 = job->base[4] + half_y * (f1[d + x] - f1[c + x]);
            float j12 = job->base[5] + half_x * (f1[e + x + ahead] - f1[e + x - back]);
            float j20 = job->base[6] + half_z * (f2[b + x] - f2[a + x]);
            float j21 = job->base[7] + half_y * (f2[d + x] - f2[c + x]);
            float j22 = job->base[8] + half_x * (f2[e + x + ahead] - f2[e + x - back]);
            float found = j00 * (j11 * j22 - j12 * j21) - j01 * (j10 * j22 - j12 * j20) + j02 * (j10 * j21 - j11 * j20);
            out[x] = job->factor * found;
        }
    }
}

static void jacobian_plane(void *context, int64_t z) {
    const jacobian_job *job = context;
    int64_t n1 = job->shape[1], n = job->shape[2];
    for (int64_t y = 0; y < n1; y++) jacobian_row(job, z, y, job->out + (z * n1 + y) * n);
}

/* Determinant of the map's derivative by central differences, one-sided at the border; at least 2 voxels an axis. */
DG_EXPORT void DG_NAME(dg_jacobian)(const jacobian_job *job) {
    dg_parallel(jacobian_plane, (void *)job, job->shape[0], job->threads);
}

typedef struct {
    const float *field;  /* (3, m0, m1, m2): what is to be undone */
    int64_t source[3];   /* m0, m1, m2 */
    int64_t shape[3];    /* n0, n1, n2 of the grid that the inverse is wanted on */
    double place[12];    /* 3×4: from its voxels to the field's, row by row in the order of the volumes' axes */
    float scale[9];      /* 3×3: from a vector of the field to the field's voxels */
    int64_t iterations;  /* at most */
    float tolerance;     /* as the field's vectors */
    float slack;         /* voxels beyond the outermost centres that still are inside the field */
    float *out;          /* (3, n0, n1, n2) */
    float *miss;         /* (n0): the largest that is left where the source lies inside the field */
    int64_t threads;
} invert_job;

enum { LANE = 64, HALVED = 6 };

#define LEAST_DETERMINANT 1e-6f

/* Newton's step is `go` over the determinant, which is returned, of a matrix (3, 3). */
static inline float newton(const float *m, float e0, float e1, float e2, float *go) {
    float minor[3] = {m[4] * m[8] - m[5] * m[7], m[5] * m[6] - m[3] * m[8], m[3] * m[7] - m[4] * m[6]};
    go[0] = minor[0] * e0 + (m[2] * m[7] - m[1] * m[8]) * e1 + (m[1] * m[5] - m[2] * m[4]) * e2;
    go[1] = minor[1] * e0 + (m[0] * m[8] - m[2] * m[6]) * e1 + (m[2] * m[3] - m[0] * m[5]) * e2;
    go[2] = minor[2] * e0 + (m[1] * m[6] - m[0] * m[7]) * e1 + (m[0] * m[4] - m[1] * m[3]) * e2;
    return m[0] * minor[0] + m[1] * minor[1] + m[2] * minor[2];
}

/* Some voxels of a row: their places without a vector, the vectors tried, the best of them and how far those miss. */
typedef struct {
    float base[3][LANE], now[3][LANE], best[3][LANE], before[3][LANE], at[3][LANE];
    float error[3][LANE], slope[3][3][LANE], length[LANE];
    int64_t n;
} invert_block;

/* Where the vectors that are tried lead, in voxels of the field. */
static void locate(const invert_job *job, invert_block *b) {
    for (int axis = 0; axis < 3; axis++) {
        const float *s = job->scale + 3 * axis;
        for (int64_t i = 0; i < LANE; i++)
            b->at[axis][i] = b->base[axis][i] + s[0] * b->now[0][i] + s[1] * b->now[1][i] + s[2] * b->now[2][i];
    }
}

/* How far the vectors that are tried miss, and the derivative of that by them; the field has two voxels an axis. */
static void look_up(const invert_job *job, invert_block *b) {
    int64_t row = job->source[2], plane = job->source[1] * row, volume = job->source[0] * plane;
    int32_t index[LANE] = {0};
    float rest[3][LANE];
    locate(job, b);
    for (int axis = 0; axis < 3; axis++) {
        int32_t size = (int32_t)job->source[axis], last = size - 2;
        float end = (float)(size - 1);
        for (int64_t i = 0; i < LANE; i++) {
            float q = dg_clamp(b->at[axis][i], 0, end);
            int32_t below = (int32_t)q;
            below = below < last ? below : last;
            rest[axis][i] = q - (float)below;
            index[i] = index[i] * size + below;
        }
    }
    for (int c = 0; c < 3; c++) {
        for (int64_t i = 0; i < b->n; i += EIGHT) {
            float *const found[4] = {b->error[c] + i, b->slope[c][0] + i, b->slope[c][1] + i, b->slope[c][2] + i};
            sample_eight(job->field + c * volume, row, plane, index + i, *(const dg_eight *)(rest[0] + i),
                         *(const dg_eight *)(rest[1] + i), *(const dg_eight *)(rest[2] + i), found);
        }
        for (int64_t i = 0; i < LANE; i++) b->error[c][i] += b->now[c][i];
    }
}

/* Keep what came nearer and take Newton's step from there; what did not goes half the way back. */
static float improve(const invert_job *job, invert_block *restrict b) {
    float s[9], tolerance = job->tolerance, most = 0;
    memcpy(s, job->scale, sizeof s);
    for (int64_t i = 0; i < LANE; i++) { /* what is beyond n is there and means nothing */
        float e0 = b->error[0][i], e1 = b->error[1][i], e2 = b->error[2][i], m[9];
        float length = sqrtf(e0 * e0 + e1 * e1 + e2 * e2), least = b->length[i];
        for (int c = 0; c < 3; c++)
            for (int k = 0; k < 3; k++)
                m[3 * c + k] = (c == k ? 1.0f : 0.0f) + b->slope[c][0][i] * s[k] + b->slope[c][1][i] * s[3 + k] +
                               b->slope[c][2][i] * s[6 + k];
        float go[3], d = newton(m, e0, e1, e2, go);
        float share = 1 / (fabsf(d) > LEAST_DETERMINANT ? d : INFINITY);
        float nearer = length < least ? 1.0f : 0.0f, left = least > tolerance ? 1.0f : 0.0f;
        for (int c = 0; c < 3; c++) {
            float now = b->now[c][i], best = b->best[c][i];
            float next = nearer != 0 ? now - share * go[c] : 0.5f * (now + best);
            b->best[c][i] = nearer != 0 ? now : best;
            b->now[c][i] = left != 0 ? next : now;
        }
        b->length[i] = nearer != 0 ? length : least;
    }
    for (int64_t i = 0; i < b->n; i++) most = b->length[i] > most ? b->length[i] : most;
    return most;
}

/* One voxel's error, (3), and its derivative by the vector, (3, 3), within a cell of the field. */
static float error_at(const invert_job *job, const float *base, const float *w, float *error, float *slope) {
    int64_t plane = job->source[1] * job->source[2], volume = job->source[0] * plane, at = 0;
    int64_t stride[3] = {plane, job->source[2], 1};
    float rest[3];
    for (int axis = 0; axis < 3; axis++) {
        const float *s = job->scale + 3 * axis;
        float q = dg_clamp(base[axis] + s[0] * w[0] + s[1] * w[1] + s[2] * w[2], 0, (float)(job->source[axis] - 1));
        int64_t size = job->source[axis], last = size > 1 ? size - 2 : 0;
        int64_t below = (int64_t)q < last ? (int64_t)q : last;
        rest[axis] = q - (float)below;
        at += below * stride[axis];
        if (size == 1) stride[axis] = 0;
    }
    for (int c = 0; c < 3; c++) {
        const float *p = job->field + c * volume + at;
        float along[3] = {0, 0, 0}, value = 0;
        for (int corner = 0; corner < 8; corner++) {
            float share[3], sign[3], v = 0;
            const float *q = p;
            for (int axis = 0; axis < 3; axis++) {
                int up = corner >> axis & 1;
                share[axis] = up ? rest[axis] : 1 - rest[axis];
                sign[axis] = up ? 1.0f : -1.0f;
                q += up ? stride[axis] : 0;
            }
            v = *q;
            value += v * share[0] * share[1] * share[2];
            for (int axis = 0; axis < 3; axis++)
                along[axis] += v * sign[axis] * share[(axis + 1) % 3] * share[(axis + 2) % 3];
        }
        error[c] = w[c] + value;
        for (int k = 0; k < 3; k++) {
            float by = c == k ? 1.0f : 0.0f;
            for (int axis = 0; axis < 3; axis++) by += along[axis] * job->scale[3 * axis + k];
            slope[3 * c + k] = by;
        }
    }
    return sqrtf(error[0] * error[0] + error[1] * error[1] + error[2] * error[2]);
}

/* One voxel where Newton's steps did not arrive, for they may go round between cells: a walk by what is missed, whole
 * steps and then half ones, and Newton's from the best of it, each halved until it comes nearer. */
static void solve(const invert_job *job, invert_block *b, int64_t i) {
    float base[3], w[3], now[3], error[3], m[9];
    for (int c = 0; c < 3; c++) base[c] = b->base[c][i], now[c] = w[c] = b->best[c][i];
    float length = INFINITY;
    for (int64_t step = 0; step <= 2 * job->iterations && !(length <= job->tolerance); step++) {
        float found = error_at(job, base, now, error, m), share = step < job->iterations ? 1.0f : 0.5f;
        if (found < length) memcpy(w, now, sizeof w), length = found;
        for (int c = 0; c < 3; c++) now[c] -= share * error[c];
    }
    b->length[i] = length = error_at(job, base, w, error, m);
    for (int64_t step = 0; step < job->iterations && length > job->tolerance; step++) {
        float go[3], d = newton(m, error[0], error[1], error[2], go);
        if (!(fabsf(d) > LEAST_DETERMINANT)) break;
        float before = length, next[3], found[3], share = 1 / d;
        for (int halved = 0; halved < HALVED; halved++, share *= 0.5f) {
            for (int c = 0; c < 3; c++) next[c] = w[c] - share * go[c];
            length = error_at(job, base, next, found, m);
            if (length < before) break;
        }
        if (!(length < before)) break;
        for (int c = 0; c < 3; c++) w[c] = next[c], error[c] = found[c];
        b->length[i] = length;
    }
    for (int c = 0; c < 3; c++) b->best[c][i] = w[c];
}

/* ``b`` holds what was found in the two rows before: this one begins where they lead. */
static float invert_some(const invert_job *job, invert_block *b, int64_t z, int64_t y, int64_t from) {
    int64_t volume = job->shape[0] * job->shape[1] * job->shape[2], n = b->n;
    for (int axis = 0; axis < 3; axis++) {
        const double *p = job->place + 4 * axis;
        double start = p[0] * (double)z + p[1] * (double)y + p[2] * (double)from + p[3];
        for (int64_t i = 0; i < n; i++) b->base[axis][i] = (float)(start + p[2] * (double)i);
    }
    for (int64_t i = 0; i < n; i++) {
        float found = b->length[i] <= job->tolerance ? 1.0f : 0.0f;
        for (int c = 0; c < 3; c++) {
            float last = b->best[c][i];
            b->best[c][i] = b->now[c][i] = found * (y > 1 ? 2 * last - b->before[c][i] : last);
            b->before[c][i] = last;
        }
        b->length[i] = INFINITY;
    }
    float left = INFINITY;
    if (dg_min(dg_min(job->source[0], job->source[1]), job->source[2]) > 1)
        for (int64_t step = 0; step < job->iterations && left > job->tolerance; step++) {
            look_up(job, b);
            left = improve(job, b);
        }
    for (int64_t i = 0; i < n && left > job->tolerance; i++)
        if (b->length[i] > job->tolerance) solve(job, b, i);
    float *out = job->out + (z * job->shape[1] + y) * job->shape[2] + from;
    for (int c = 0; c < 3; c++) {
        memcpy(out + c * volume, b->best[c], (size_t)n * sizeof(float));
        memcpy(b->now[c], b->best[c], (size_t)n * sizeof(float));
    }
    locate(job, b);
    float most = 0;
    for (int64_t i = 0; i < n; i++) {
        int inside = 1;
        for (int axis = 0; axis < 3; axis++)
            inside &= b->at[axis][i] >= -job->slack && b->at[axis][i] <= (float)(job->source[axis] - 1) + job->slack;
        if (inside && b->length[i] > most) most = b->length[i];
    }
    return most;
}

static void invert_plane(void *context, int64_t z) {
    const invert_job *job = context;
    float most = 0;
    for (int64_t from = 0; from < job->shape[2]; from += LANE) {
        invert_block b = {.n = dg_min(LANE, job->shape[2] - from)};
        for (int64_t i = 0; i < b.n; i++) b.length[i] = INFINITY;
        for (int64_t y = 0; y < job->shape[1]; y++) {
            float left = invert_some(job, &b, z, y, from);
            most = left > most ? left : most;
        }
    }
    job->miss[z] = most;
}

/* For every voxel the vector w with w + field(place + scale w) = 0. */
DG_EXPORT void DG_NAME(dg_invert)(const invert_job *job) {
    dg_parallel(invert_plane, (void *)job, job->shape[0], job->threads);
}
