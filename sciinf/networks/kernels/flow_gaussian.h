/* The Gaussian of flows/conditional_gaussian.py, for a block of points of couplings.c. */

#include "flow_blocks.h"

INLINED float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* Means, bounded logarithms of scales and rows below the diagonal of the Gaussian for a block's context. */
static void gaussian_of(const Sizes *s, const Weights *w, const Room *room) {
    int features = (int)s->features, hidden = (int)s->hidden, count = (int)moments_of(s);
    float *restrict scale = room->scale, *restrict log_scale = room->moments + s->dim * POINTS;
    float *restrict bent = room->end; /* by its activation; room->bent is what comes before it */
    product(w->inner, features, 1, room->context, w->inner_bias, 0, room->bent, hidden, features);
    for (int64_t i = 0; i < hidden * POINTS; i++) bent[i] = room->bent[i] * sigmoid(room->bent[i]);
    product(w->direct, features, 1, room->context, w->direct_bias, 0, room->moments, count, features);
    for (int r = 0; r < count; r++)
        for (int i = 0; i < POINTS; i++) room->moments[r * POINTS + i] += w->outer_bias[r];
    product(w->outer, hidden, 1, bent, 0, 1, room->moments, count, hidden);
    for (int64_t i = 0; i < s->dim * POINTS; i++) {
        log_scale[i] = 8.0f - 16.0f * sigmoid(-0.25f * log_scale[i]); /* 8 tanh(. / 8) */
        scale[i] = exponential(log_scale[i]);
    }
}

/* Row j of what is below the diagonal in row i. */
static const float *below(const Sizes *s, const float *moments, int64_t i, int64_t j) {
    return moments + (2 * s->dim + i * (i - 1) / 2 + j) * POINTS;
}

/* From room->z to room->value, in the order of the first step, and log |det|. */
static void begin(const Sizes *s, const Weights *w, const Room *room, float *restrict log_det) {
    memset(log_det, 0, sizeof(float) * POINTS);
    for (int64_t r = 0; r < s->dim; r++) {
        int64_t i = own_place(s, r);
        float *restrict to = room->value + r * POINTS;
        const float *z = room->z, *m = room->moments;
        memcpy(to, z + i * POINTS, sizeof(float) * POINTS);
        if (!w->direct) continue;
        for (int p = 0; p < POINTS; p++) to[p] -= m[i * POINTS + p];
        for (int64_t j = 0; j < i; j++) {
            const float *by = below(s, m, i, j);
            for (int p = 0; p < POINTS; p++) to[p] += by[p] * (z[j * POINTS + p] - m[j * POINTS + p]);
        }
        for (int p = 0; p < POINTS; p++) {
            to[p] *= room->scale[i * POINTS + p];
            log_det[p] += m[(s->dim + i) * POINTS + p];
        }
    }
}

/* And back: from room->value to room->z. */
static void end(const Sizes *s, const Weights *w, const Room *room) {
    for (int64_t r = 0; r < s->dim; r++)
        memcpy(room->z + own_place(s, r) * POINTS, room->value + r * POINTS, sizeof(float) * POINTS);
    if (!w->direct) return;
    for (int64_t i = 0; i < s->dim; i++) {
        float *restrict to = room->z + i * POINTS;
        for (int p = 0; p < POINTS; p++) to[p] /= room->scale[i * POINTS + p];
        for (int64_t j = 0; j < i; j++) {
            const float *by = below(s, room->moments, i, j), *from = room->z + j * POINTS;
            for (int p = 0; p < POINTS; p++) to[p] -= by[p] * from[p];
        }
    }
    for (int64_t i = 0; i < s->dim * POINTS; i++) room->z[i] += room->moments[i];
}

/* From what the steps began with to z, and to the Gaussian's numbers, to which g->moments adds up. */
static void begin_back(const Sizes *s, const Weights *w, const Room *room, Slopes *g) {
    int64_t dim = s->dim;
    if (w->direct) memset(g->z, 0, sizeof(float) * dim * POINTS);
    for (int64_t r = 0; r < dim; r++) {
        int64_t i = own_place(s, r);
        const float *from = g->value + r * POINTS, *m = room->moments, *scale = room->scale + i * POINTS;
        float *restrict to = g->z + i * POINTS;
        if (!w->direct) {
            memcpy(to, from, sizeof(float) * POINTS);
            continue;
        }
        float *restrict by_log = g->moments + (dim + i) * POINTS, scaled[POINTS];
        for (int p = 0; p < POINTS; p++) { /* room->value is what the Gaussian gives */
            scaled[p] = from[p] * scale[p];
            to[p] += scaled[p];
            by_log[p] += from[p] * room->value[r * POINTS + p] + g->log_det[p];
        }
        for (int64_t j = 0; j < i; j++) {
            const float *by = below(s, m, i, j), *z = room->z + j * POINTS, *mean = m + j * POINTS;
            float *restrict g_by = g->moments + (by - m), *restrict g_z = g->z + j * POINTS;
            for (int p = 0; p < POINTS; p++) {
                g_by[p] += scaled[p] * (z[p] - mean[p]);
                g_z[p] += scaled[p] * by[p];
            }
        }
    }
    for (int64_t i = 0; w->direct && i < dim * POINTS; i++) g->moments[i] -= g->z[i];
}

/* From the Gaussian's numbers to its weights and the context, to whose gradient it adds. */
static void gaussian_back(const Sizes *s, const Weights *w, const Room *room, Slopes *g) {
    int features = (int)s->features, hidden = (int)s->hidden, count = (int)moments_of(s);
    float *restrict by_log = g->moments + s->dim * POINTS, *restrict to = g->hidden, *restrict bent = g->within;
    const float *log_scale = room->moments + s->dim * POINTS, *a = room->bent;
    for (int64_t i = 0; i < s->dim * POINTS; i++) by_log[i] *= 1.0f - log_scale[i] * log_scale[i] / 64.0f;
    for (int64_t i = 0; i < hidden * POINTS; i++) bent[i] = a[i] * sigmoid(a[i]);
    outer(g->moments, count, room->context, features, g->sums.direct);
    outer(g->moments, count, bent, hidden, g->sums.outer);
    product(w->outer, 1, hidden, g->moments, 0, 0, to, hidden, count);
    for (int64_t i = 0; i < hidden * POINTS; i++) {
        float open = sigmoid(a[i]);
        to[i] *= open * (1.0f + a[i] * (1.0f - open));
    }
    outer(to, hidden, room->context, features, g->sums.inner);
    product(w->direct, 1, features, g->moments, 0, 1, g->context, features, count);
    product(w->inner, 1, features, to, 0, 1, g->context, features, hidden);
}
