/* A volume times a banded matrix along each axis: smoothing and interpolation to another grid in one go. */
#include "rows.h"

typedef struct {
    int64_t size, count, taps; /* of the source, of the results, and of the source for each result */
    const int32_t *first;      /* for each result the first of its taps */
    const float *weights;      /* (count, taps) */
} band_map;

typedef struct {
    int64_t channels, threads;
    int64_t chunk; /* planes of the result that are one part of the work */
    band_map axes[3];
    const float *volume; /* (channels, sizes of the axes) */
    float *out;          /* (channels, counts of the axes) */
    float *scratch;      /* for each part a plane and a row of the source */
} separable_job;

/* Result k of items of n floats, `apart` floats from one to the next. */
static void blend_items(const band_map *map, int64_t k, const float *items, int64_t apart, int64_t n, float *out) {
    const float *rows[DG_ROWS];
    for (int64_t from = 0; from < map->taps; from += DG_ROWS) {
        int count = (int)dg_min(DG_ROWS, map->taps - from);
        for (int i = 0; i < count; i++) rows[i] = items + (map->first[k] + from + i) * apart;
        dg_sum_rows(out, rows, map->weights + k * map->taps + from, count, from > 0, n);
    }
}

static void blend_row(const band_map *map, const float *row, float *out) {
    for (int64_t x = 0; x < map->count; x++) {
        const float *weights = map->weights + x * map->taps, *from = row + map->first[x];
        float sum = 0;
        for (int64_t i = 0; i < map->taps; i++) sum += weights[i] * from[i];
        out[x] = sum;
    }
}

static void separable_part(void *context, int64_t part) {
    const separable_job *job = context;
    const band_map *a = &job->axes[0], *b = &job->axes[1], *c = &job->axes[2];
    int64_t plane = b->size * c->size;
    float *made = job->scratch + part * (plane + c->size), *row = made + plane;
    for (int64_t i = part * job->chunk; i < dg_min((part + 1) * job->chunk, job->channels * a->count); i++) {
        blend_items(a, i % a->count, job->volume + i / a->count * a->size * plane, plane, plane, made);
        for (int64_t y = 0; y < b->count; y++) {
            blend_items(b, y, made, c->size, c->size, row);
            blend_row(c, row, job->out + (i * b->count + y) * c->count);
        }
    }
}

DG_EXPORT void DG_NAME(dg_separable)(separable_job *job) {
    int64_t planes = job->channels * job->axes[0].count;
    dg_parallel(separable_part, job, (planes + job->chunk - 1) / job->chunk, job->threads);
}
