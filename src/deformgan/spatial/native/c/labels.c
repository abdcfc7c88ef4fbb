/* Sampling label maps between their voxels: of the eight around a position each has its share, and no value is blended. */
#include "common.h"

typedef struct {
    const int32_t *labels; /* (n0, n1, n2) */
    int64_t shape[3];
    const float *at; /* (3, count): -1 and 1 are the outer faces of the voxels; the last axis comes first */
    int64_t count;
    int32_t *out; /* (count): where in the volume a voxel with the chosen label lies */
    int64_t threads;
} vote_job;

enum { PART = 1 << 14 };

/* The label of the largest share; of equal ones that of the nearest voxel, whose corner is `nearest`. */
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
    const vote_job *job = context;
    int64_t apart[3] = {job->shape[1] * job->shape[2], job->shape[2], 1};
    for (int64_t i = part * PART; i < dg_min((part + 1) * PART, job->count); i++) {
        int64_t first = 0, step[3];
        float behind[3];
        int nearest = 0;
        for (int axis = 0; axis < 3; axis++) {
            int64_t size = job->shape[axis];
            float p = (job->at[(2 - axis) * job->count + i] + 1) * (0.5f * (float)size) - 0.5f;
            p = dg_clamp(p, 0, (float)(size - 1));
            int64_t below = dg_min((int64_t)p, dg_max(size - 2, 0));
            behind[axis] = p - (float)below;
            first += below * apart[axis];
            step[axis] = size > 1 ? apart[axis] : 0;
            nearest = 2 * nearest + (behind[axis] >= 0.5f);
        }
        const int32_t *corners[8];
        int32_t differ = 0;
        for (int c = 0; c < 8; c++) {
            corners[c] = job->labels + first + (c >> 2) * step[0] + (c >> 1 & 1) * step[1] + (c & 1) * step[2];
            differ |= *corners[c] ^ *corners[0];
        }
        if (differ) {
            float shares[8];
            for (int c = 0; c < 8; c++)
                shares[c] = (c >> 2 ? behind[0] : 1 - behind[0]) * (c >> 1 & 1 ? behind[1] : 1 - behind[1]) *
                            (c & 1 ? behind[2] : 1 - behind[2]);
            nearest = chosen(corners, shares, nearest);
        }
        job->out[i] = (int32_t)(corners[nearest] - job->labels);
    }
}

/* For any positions, the voxel whose label has the largest share there, the border voxel outside. */
DG_EXPORT void DG_NAME(dg_vote)(const vote_job *job) {
    dg_parallel(vote_part, (void *)job, (job->count + PART - 1) / PART, job->threads);
}
