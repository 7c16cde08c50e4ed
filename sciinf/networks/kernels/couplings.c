/* The flow of flows/spline.py, with the networks behind it, forward, backward and inverse, in single precision.

   Points are taken POINTS at a time through all layers, so that what is between layers stays in fast caches: of
   `width` rows of the context each, and of as many draws for every row as there is room for. Of the way forward only
   what enters each map is kept; the gradient goes through each network once more. Blocks are (rows, POINTS). */

#include "flow_gaussian.h"

/* The rows of the context from `first`, `width` of them, again for each draw, and what they give to each layer. */
static void enter(const Sizes *s, const Weights *w, const float *context, int64_t first, int64_t width,
                  const Room *room) {
    for (int64_t i = 0; i < POINTS; i++) {
        int64_t row = first + i % width;
        const float *from = context + (row < s->stop ? row : s->stop - 1) * s->features;
        for (int64_t c = 0; c < s->features; c++) room->context[c * POINTS + i] = from[c];
    }
    product(w->given, s->features, 1, room->context, w->given_bias, 0, room->gates, (int)gates_of(s), (int)s->features);
    for (int64_t k = 0; k < s->steps; k++) {
        float *gates = room->gates + (k * (1 + s->layers) + 1) * s->hidden * POINTS;
        for (int64_t i = 0; i < s->layers * s->hidden * POINTS; i++) gates[i] = sigmoid(gates[i]);
    }
    if (w->direct) gaussian_of(s, w, room);
}

/* The network of a step: from the dimensions that it keeps, the first of `of`, to the raw numbers of its splines. */
static void network(const Sizes *s, const Weights *w, int64_t k, const float *of, const Room *room) {
    int64_t hidden = s->hidden, size = hidden * POINTS;
    int moved = moved_of(s, k), kept = (int)s->dim - moved;
    const float *gates = room->gates + k * (1 + s->layers) * size;
    float *restrict h = room->end;
    memcpy(h, gates, sizeof(float) * size);
    product(w->first[k], kept, 1, of, 0, 1, h, (int)hidden, kept);
    for (int64_t b = 0; b < s->layers; b++) {
        const float *matrix = w->within + (k * s->layers + b) * 2 * hidden * hidden, *gate = gates + (b + 1) * size;
        const float *bias = w->within_bias + (k * s->layers + b) * 2 * hidden;
        float *restrict input = room->input + b * size, *restrict within = room->within + b * size;
        float *restrict change = room->change + b * size;
        for (int64_t i = 0; i < size; i++) input[i] = h[i] < 0.0f ? 0.0f : h[i];
        product(matrix, hidden, 1, input, bias, 0, within, (int)hidden, (int)hidden);
        for (int64_t i = 0; i < size; i++) within[i] = within[i] < 0.0f ? 0.0f : within[i];
        product(matrix + hidden * hidden, hidden, 1, within, bias + hidden, 0, change, (int)hidden, (int)hidden);
        for (int64_t i = 0; i < size; i++) h[i] += change[i] * gate[i];
    }
    product(w->last[k], hidden, 1, h, w->last_bias[k], 0, room->raw, moved * (3 * (int)s->bins - 1), (int)hidden);
}

/* Where the numbers of a spline begin among those of `moved`: widths and heights, and slopes. */
static int64_t shares_at(const Sizes *s, int j) { return 2 * j * s->bins * POINTS; }

static int64_t slopes_at(const Sizes *s, int moved, int j) {
    return (2 * moved * s->bins + j * (s->bins - 1)) * POINTS;
}

/* z (dim, draws, batch) to noise; log |det| of Gaussian and splines (draws, batch); what enters each map
   (steps, dim, draws, batch). Not 0 where there is no memory. */
int couplings_forward(float *z, float *context, float **all, float *noise, float *log_det, float *entered,
                      const Sizes *s, float bound, float edge) {
    FLUSHED;
    Room room;
    Weights w = weights_of(all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    float changed[POINTS], *whole = make_room(s, &room);
    int64_t dim = s->dim, whole_value = dim * s->draws * s->batch;
    if (!whole) return 1;
    OVER_ROWS_OF_CONTEXT {
        enter(s, &w, context, first, width, &room);
        OVER_DRAWS {
            copy(s, z, dim, first, width, draw, room.z, 0);
            begin(s, &w, &room, changed);
            for (int64_t k = 0; k < s->steps; k++) {
                int moved = moved_of(s, k), kept = (int)dim - moved;
                network(s, &w, k, room.value, &room);
                memcpy(room.went, room.value, sizeof(float) * kept * POINTS);
                for (int j = 0; j < moved; j++) {
                    const float *raw = room.raw + shares_at(s, j), *slopes = room.raw + slopes_at(s, moved, j);
                    int64_t row = (kept + j) * POINTS;
                    forward(room.value + row, raw, slopes, POINTS, POINTS, shape, room.went + row, room.log_slope,
                            room.share);
                    for (int i = 0; i < POINTS; i++) changed[i] += room.log_slope[i];
                }
                copy(s, entered + k * whole_value, dim, first, width, draw, room.went, 1);
                product(w.maps + k * dim * dim, dim, 1, room.went, w.shifts + k * dim, 0, room.value, (int)dim,
                        (int)dim);
            }
            copy(s, noise, dim, first, width, draw, room.value, 1);
            copy(s, log_det, 1, first, width, draw, changed, 1);
        }
    }
    free(whole);
    return 0;
}

/* noise (dim, draws, batch) to z; maps and shifts are those of the inverse maps. */
int couplings_inverse(float *noise, float *context, float **all, float *z, const Sizes *s, float bound,
                      float edge) {
    FLUSHED;
    Room room;
    Weights w = weights_of(all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    float *whole = make_room(s, &room);
    int64_t dim = s->dim;
    if (!whole) return 1;
    OVER_ROWS_OF_CONTEXT {
        enter(s, &w, context, first, width, &room);
        OVER_DRAWS {
            copy(s, noise, dim, first, width, draw, room.value, 0);
            for (int64_t k = s->steps - 1; k >= 0; k--) {
                int moved = moved_of(s, k), kept = (int)dim - moved;
                product(w.maps + k * dim * dim, dim, 1, room.value, w.shifts + k * dim, 0, room.went, (int)dim,
                        (int)dim);
                network(s, &w, k, room.went, &room);
                memcpy(room.value, room.went, sizeof(float) * kept * POINTS);
                for (int j = 0; j < moved; j++) {
                    const float *raw = room.raw + shares_at(s, j), *slopes = room.raw + slopes_at(s, moved, j);
                    int64_t row = (kept + j) * POINTS;
                    inverse(room.went + row, raw, slopes, POINTS, POINTS, shape, room.value + row, room.share);
                }
            }
            end(s, &w, &room);
            copy(s, z, dim, first, width, draw, room.z, 1);
        }
    }
    free(whole);
    return 0;
}

/* Through a network: from the gradient of its raw numbers to that of the dimensions it keeps, added to g->value. */
static void network_back(const Sizes *s, const Weights *w, int64_t k, const Room *room, Slopes *g) {
    int64_t hidden = s->hidden, size = hidden * POINTS, padded = hidden * PADDED(hidden + 1);
    int moved = moved_of(s, k), kept = (int)s->dim - moved, numbers = moved * (3 * (int)s->bins - 1);
    int wide = (int)hidden;
    const float *gates = room->gates + k * (1 + s->layers) * size;
    float *g_gates = g->gates + k * (1 + s->layers) * size, *restrict to = g->hidden, *restrict g_within = g->within;
    outer(g->raw, numbers, room->end, wide, g->sums.last[k]);
    product(w->last[k], 1, hidden, g->raw, 0, 0, to, wide, numbers);
    for (int64_t b = s->layers - 1; b >= 0; b--) {
        const float *matrix = w->within + (k * s->layers + b) * 2 * hidden * hidden, *gate = gates + (b + 1) * size;
        const float *input = room->input + b * size, *within = room->within + b * size;
        float *sum = g->sums.within + (k * s->layers + b) * 2 * padded, *restrict g_gate = g_gates + (b + 1) * size;
        float *restrict change = room->change + b * size; /* and then its gradient, and that of the input */
        for (int64_t i = 0; i < size; i++) {
            float by = to[i] * gate[i];
            g_gate[i] += by * (1.0f - gate[i]) * change[i];
            change[i] = by;
        }
        outer(change, wide, within, wide, sum + padded);
        product(matrix + hidden * hidden, 1, hidden, change, 0, 0, g_within, wide, wide);
        for (int64_t i = 0; i < size; i++) g_within[i] = within[i] > 0.0f ? g_within[i] : 0.0f;
        outer(g_within, wide, input, wide, sum);
        product(matrix, 1, hidden, g_within, 0, 0, change, wide, wide);
        for (int64_t i = 0; i < size; i++) to[i] += input[i] > 0.0f ? change[i] : 0.0f;
    }
    for (int64_t i = 0; i < size; i++) g_gates[i] += to[i];
    outer(to, wide, room->came, kept, g->sums.first[k]);
    product(w->first[k], 1, kept, to, 0, 1, g->value, kept, wide);
}

/* Through a step: g->value from the gradient of what its map gives to that of what came, which are room->went and
   room->came. */
static void step_back(const Sizes *s, const Weights *w, int64_t k, Shape shape, const Room *room, Slopes *g) {
    int dim = (int)s->dim, moved = moved_of(s, k), kept = dim - moved;
    network(s, w, k, room->came, room);
    outer(g->value, dim, room->went, dim, g->sums.maps + k * dim * PADDED(dim + 1));
    product(w->maps + k * dim * dim, 1, dim, g->value, 0, 0, g->went, dim, dim);
    for (int j = 0; j < moved; j++) {
        int64_t row = (kept + j) * POINTS, shares = shares_at(s, j), slopes = slopes_at(s, moved, j);
        backward(room->came + row, room->raw + shares, room->raw + slopes, g->went + row, g->log_det, POINTS, POINTS,
                 shape, g->value + row, g->raw + shares, g->raw + slopes, room->share);
    }
    memcpy(g->value, g->went, sizeof(float) * kept * POINTS);
    network_back(s, w, k, room, g);
}

/* From a sum to a gradient: a matrix, and its bias if it has one. */
static void unpad(const float *sum, int64_t rows, int64_t columns, float *matrix, float *bias) {
    for (int64_t r = 0; r < rows; r++, sum += PADDED(columns + 1)) {
        if (columns) memcpy(matrix + r * columns, sum, sizeof(float) * columns);
        if (bias) bias[r] = sum[columns];
    }
}

static void finish(const Sizes *s, const Weights *sums, const Weights *to) {
    unpad(sums->given, gates_of(s), s->features, to->given, to->given_bias);
    unpad(sums->within, s->steps * s->layers * 2 * s->hidden, s->hidden, to->within, to->within_bias);
    unpad(sums->maps, s->steps * s->dim, s->dim, to->maps, to->shifts);
    if (to->direct) {
        unpad(sums->direct, moments_of(s), s->features, to->direct, to->direct_bias);
        unpad(sums->inner, s->hidden, s->features, to->inner, to->inner_bias);
        unpad(sums->outer, moments_of(s), s->hidden, to->outer, to->outer_bias);
    }
    for (int64_t k = 0; k < s->steps; k++) {
        int moved = moved_of(s, k);
        unpad(sums->first[k], s->hidden, s->dim - moved, to->first[k], 0);
        unpad(sums->last[k], moved * (3 * s->bins - 1), s->hidden, to->last[k], to->last_bias[k]);
    }
}

/* Gradients of z, context and weights from those of noise and log |det|, and from what entered each map. */
int couplings_backward(float *z, float *context, float **all, float *entered, float *g_noise, float *g_log_det,
                       float *g_z, float *g_context, float **g_all, const Sizes *s, float bound, float edge) {
    FLUSHED;
    Room room;
    Slopes g;
    Weights w = weights_of(all, s->steps), to = weights_of(g_all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    int64_t dim = s->dim, whole_value = dim * s->draws * s->batch;
    float **each = malloc(sizeof(float *) * 2 * s->steps);
    float *whole = make_room(s, &room);
    float *slopes = each ? calloc(lay_out_slopes(s, 0, each, &g), sizeof(float)) : 0;
    int failed = !whole || !slopes;
    if (!failed) {
        lay_out_slopes(s, slopes, each, &g);
        memset(g_context + s->start * s->features, 0, sizeof(float) * (s->stop - s->start) * s->features);
        OVER_ROWS_OF_CONTEXT {
            enter(s, &w, context, first, width, &room);
            memset(g.gates, 0, sizeof(float) * gates_of(s) * POINTS);
            memset(g.moments, 0, sizeof(float) * moments_of(s) * POINTS);
            OVER_DRAWS {
                copy(s, g_noise, dim, first, width, draw, g.value, 0);
                copy(s, g_log_det, 1, first, width, draw, g.log_det, 0);
                copy(s, entered + (s->steps - 1) * whole_value, dim, first, width, draw, room.went, 0);
                for (int64_t k = s->steps - 1; k >= 0; k--) {
                    int64_t before = k - 1;
                    if (k) { /* what came is what the step before has made of what entered its map */
                        copy(s, entered + before * whole_value, dim, first, width, draw, room.value, 0);
                        product(w.maps + before * dim * dim, dim, 1, room.value, w.shifts + before * dim, 0, room.came,
                                (int)dim, (int)dim);
                    } else {
                        copy(s, z, dim, first, width, draw, room.z, 0);
                        begin(s, &w, &room, room.log_slope);
                        memcpy(room.came, room.value, sizeof(float) * dim * POINTS);
                    }
                    step_back(s, &w, k, shape, &room, &g);
                    memcpy(room.went, room.value, sizeof(float) * dim * POINTS);
                }
                begin_back(s, &w, &room, &g);
                copy(s, g_z, dim, first, width, draw, g.z, 1);
            }
            outer(g.gates, (int)gates_of(s), room.context, (int)s->features, g.sums.given);
            product(w.given, 1, s->features, g.gates, 0, 0, g.context, (int)s->features, (int)gates_of(s));
            if (w.direct) gaussian_back(s, &w, &room, &g);
            for (int64_t i = 0; i < POINTS; i++)
                if (first + i % width < s->stop)
                    for (int64_t c = 0; c < s->features; c++)
                        g_context[(first + i % width) * s->features + c] += g.context[c * POINTS + i];
        }
        finish(s, &g.sums, &to);
    }
    free(each), free(whole), free(slopes);
    return failed;
}
