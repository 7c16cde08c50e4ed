/* The flow of flows/spline.py, with the networks behind it, forward, backward and inverse, in single precision.

   Points are taken POINTS at a time through all layers, so that what is between layers stays in fast caches: of
   `width` rows of the context each, and of as many draws for every row as there is room for. Of the way forward only
   what enters each map is kept; the gradient goes through each network once more. Blocks are (rows, POINTS). */

#include "products.h"

typedef struct {
    int64_t dim, features, hidden, bins, steps, layers, batch, draws; /* layers: residual blocks of a network */
} Sizes;

/* Weights, or gradients of them, in the order of `couplings.Weights`; of the last three there is one for each step. The
   Gaussian's are 0 where there is none. */
typedef struct {
    float *given, *given_bias, *within, *within_bias, *maps, *shifts;
    float *direct, *direct_bias, *inner, *inner_bias, *outer, *outer_bias;
    float **first, **last, **last_bias;
} Weights;

static Weights weights_of(float **all, int64_t steps) {
    float **each = all + 12;
    return (Weights){all[0], all[1], all[2],  all[3],  all[4], all[5],       all[6],          all[7],
                     all[8], all[9], all[10], all[11], each,   each + steps, each + 2 * steps};
}

static int moved_of(const Sizes *s, int64_t step) { return s->dim == 1 ? 1 : (int)(s->dim + 1 - step % 2) / 2; }

static int64_t numbers_of(const Sizes *s) { return (s->dim + 1) / 2 * (3 * s->bins - 1); }

/* How many numbers make a Gaussian: means, logarithms of scales, and what is below the diagonal. */
static int64_t moments_of(const Sizes *s) { return 2 * s->dim + s->dim * (s->dim - 1) / 2; }

/* Which dimension is the r-th of the first step: those it keeps come first. */
static int64_t own_place(const Sizes *s, int64_t r) {
    int64_t kept = s->dim / 2;
    return s->dim == 1 ? 0 : r < kept ? 2 * r + 1 : 2 * (r - kept);
}

static int64_t gates_of(const Sizes *s) { return s->steps * (1 + s->layers) * s->hidden; }

/* `count` numbers of a piece of memory that begins at `at`, after `length` of them; only counted where `at` is 0. */
static float *take(float *at, int64_t *length, int64_t count) {
    float *here = at ? at + *length : 0;
    *length += count;
    return here;
}

/* Blocks. Features of the context, what they give to all layers and to the Gaussian, the layer within the latter; z; of the step at work its dimensions as they came
   and as they enter the map, the raw numbers of its splines and their logarithms; of its network what leaves the last
   layer, and for each residual block its input, what is within it, and the change that it makes. */
typedef struct {
    float *context, *gates, *moments, *scale, *bent, *z, *value, *came, *went, *raw, *log_slope, *share, *turned, *end, *input, *within, *change;
} Room;

static int64_t lay_out(const Sizes *s, float *at, Room *room) {
    int64_t length = 0, widest = s->hidden > s->features ? s->hidden : s->features, inner = s->hidden * s->layers;
    widest = PADDED((widest > s->dim ? widest : s->dim) + 1);
#define BLOCK(name, rows) room->name = take(at, &length, POINTS *(rows))
    BLOCK(context, s->features);
    BLOCK(gates, gates_of(s));
    BLOCK(moments, moments_of(s));
    BLOCK(scale, s->dim);
    BLOCK(bent, s->hidden);
    BLOCK(z, s->dim);
    BLOCK(value, s->dim);
    BLOCK(came, s->dim);
    BLOCK(went, s->dim);
    BLOCK(raw, numbers_of(s));
    BLOCK(log_slope, 1);
    BLOCK(share, 2 * s->bins);
    BLOCK(turned, widest);
    BLOCK(end, s->hidden);
    BLOCK(input, inner);
    BLOCK(within, inner);
    BLOCK(change, inner);
#undef BLOCK
    return length;
}

/* How many rows of the context a block has: as many in each, for all blocks to be well filled. */
static int64_t width_of(const Sizes *s) {
    int64_t blocks = (s->batch + POINTS - 1) / POINTS;
    return (s->batch + blocks - 1) / blocks;
}

#define OVER_ROWS_OF_CONTEXT for (int64_t width = width_of(s), first = 0; first < s->batch; first += width)
#define OVER_DRAWS for (int64_t draw = 0; draw < s->draws; draw += POINTS / width)

/* Copy points of a block from an array (rows, draws, batch), the rest of the block being 0, or into it. */
static void copy(const Sizes *s, float *array, int64_t rows, int64_t first, int64_t width, int64_t draw, float *block,
                 int into) {
    int64_t room = POINTS / width, draws = s->draws - draw < room ? s->draws - draw : room;
    int64_t real = s->batch - first < width ? s->batch - first : width;
    if (!into) memset(block, 0, sizeof(float) * rows * POINTS);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < draws; d++) {
            float *at = array + (r * s->draws + draw + d) * s->batch + first, *mine = block + r * POINTS + d * width;
            memcpy(into ? at : mine, into ? mine : at, sizeof(float) * real);
        }
}

INLINED float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

/* Means, bounded logarithms of scales and rows below the diagonal of the Gaussian for a block's context. */
static void gaussian_of(const Sizes *s, const Weights *w, const Room *room) {
    int features = (int)s->features, hidden = (int)s->hidden, count = (int)moments_of(s);
    float *restrict scale = room->scale, *restrict log_scale = room->moments + s->dim * POINTS;
    float *restrict bent = room->turned; /* by its activation; room->bent is what comes before it */
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

/* The rows of the context from `first`, `width` of them, again for each draw, and what they give to each layer. */
static void enter(const Sizes *s, const Weights *w, const float *context, int64_t first, int64_t width,
                  const Room *room) {
    for (int64_t i = 0; i < POINTS; i++) {
        int64_t row = first + i % width;
        const float *from = context + (row < s->batch ? row : s->batch - 1) * s->features;
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
    Room room;
    Weights w = weights_of(all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    float changed[POINTS], *whole = malloc(sizeof(float) * lay_out(s, 0, &room));
    int64_t dim = s->dim, whole_value = dim * s->draws * s->batch;
    if (!whole) return 1;
    lay_out(s, whole, &room);
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
    Room room;
    Weights w = weights_of(all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    float *whole = malloc(sizeof(float) * lay_out(s, 0, &room));
    int64_t dim = s->dim;
    if (!whole) return 1;
    lay_out(s, whole, &room);
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

/* Gradients. Blocks of those of a block's gates, the Gaussian's numbers, z, what the steps began with, log |det|, what
   entered a map, raw numbers, what is in a network, within a residual block, and of the context; and sums of those of the weights, whose rows are padded, and in which the
   bias is the last column of its matrix. */
typedef struct {
    float *gates, *moments, *z, *value, *log_det, *went, *raw, *hidden, *within, *context;
    Weights sums;
} Slopes;

static int64_t lay_out_slopes(const Sizes *s, float *at, float **each, Slopes *g) {
    int64_t length = 0, hidden = s->hidden, wide = PADDED(hidden + 1);
#define BLOCK(name, rows) g->name = take(at, &length, POINTS *(rows))
    BLOCK(gates, gates_of(s));
    BLOCK(moments, moments_of(s));
    BLOCK(z, s->dim);
    BLOCK(value, s->dim);
    BLOCK(log_det, 1);
    BLOCK(went, s->dim);
    BLOCK(raw, numbers_of(s));
    BLOCK(hidden, hidden);
    BLOCK(within, hidden);
    BLOCK(context, s->features);
#undef BLOCK
    g->sums.given = take(at, &length, gates_of(s) * PADDED(s->features + 1));
    g->sums.within = take(at, &length, s->steps * s->layers * 2 * hidden * wide);
    g->sums.maps = take(at, &length, s->steps * s->dim * PADDED(s->dim + 1));
    g->sums.direct = take(at, &length, moments_of(s) * PADDED(s->features + 1));
    g->sums.inner = take(at, &length, hidden * PADDED(s->features + 1));
    g->sums.outer = take(at, &length, moments_of(s) * wide);
    g->sums.first = each, g->sums.last = each + s->steps;
    for (int64_t k = 0; k < s->steps; k++) {
        each[k] = take(at, &length, hidden * PADDED(s->dim + 1));
        each[s->steps + k] = take(at, &length, numbers_of(s) * wide);
    }
    return length;
}

/* Through a network: from the gradient of its raw numbers to that of the dimensions it keeps, added to g->value. */
static void network_back(const Sizes *s, const Weights *w, int64_t k, const Room *room, Slopes *g) {
    int64_t hidden = s->hidden, size = hidden * POINTS, padded = hidden * PADDED(hidden + 1);
    int moved = moved_of(s, k), kept = (int)s->dim - moved, numbers = moved * (3 * (int)s->bins - 1), wide = (int)hidden;
    const float *gates = room->gates + k * (1 + s->layers) * size;
    float *g_gates = g->gates + k * (1 + s->layers) * size, *restrict to = g->hidden, *restrict g_within = g->within;
    outer(g->raw, numbers, room->end, wide, room->turned, g->sums.last[k]);
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
        outer(change, wide, within, wide, room->turned, sum + padded);
        product(matrix + hidden * hidden, 1, hidden, change, 0, 0, g_within, wide, wide);
        for (int64_t i = 0; i < size; i++) g_within[i] = within[i] > 0.0f ? g_within[i] : 0.0f;
        outer(g_within, wide, input, wide, room->turned, sum);
        product(matrix, 1, hidden, g_within, 0, 0, change, wide, wide);
        for (int64_t i = 0; i < size; i++) to[i] += input[i] > 0.0f ? change[i] : 0.0f;
    }
    for (int64_t i = 0; i < size; i++) g_gates[i] += to[i];
    outer(to, wide, room->came, kept, room->turned, g->sums.first[k]);
    product(w->first[k], 1, kept, to, 0, 1, g->value, kept, wide);
}

/* Through a step: g->value from the gradient of what its map gives to that of what came, which are room->went and
   room->came. */
static void step_back(const Sizes *s, const Weights *w, int64_t k, Shape shape, const Room *room, Slopes *g) {
    int dim = (int)s->dim, moved = moved_of(s, k), kept = dim - moved;
    network(s, w, k, room->came, room);
    outer(g->value, dim, room->went, dim, room->turned, g->sums.maps + k * dim * PADDED(dim + 1));
    product(w->maps + k * dim * dim, 1, dim, g->value, 0, 0, g->went, dim, dim);
    for (int j = 0; j < moved; j++) {
        int64_t row = (kept + j) * POINTS, shares = shares_at(s, j), slopes = slopes_at(s, moved, j);
        backward(room->came + row, room->raw + shares, room->raw + slopes, g->went + row, g->log_det, POINTS, POINTS,
                 shape, g->value + row, g->raw + shares, g->raw + slopes, room->share);
    }
    memcpy(g->value, g->went, sizeof(float) * kept * POINTS);
    network_back(s, w, k, room, g);
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
    outer(g->moments, count, room->context, features, room->turned, g->sums.direct);
    outer(g->moments, count, bent, hidden, room->turned, g->sums.outer);
    product(w->outer, 1, hidden, g->moments, 0, 0, to, hidden, count);
    for (int64_t i = 0; i < hidden * POINTS; i++) {
        float open = sigmoid(a[i]);
        to[i] *= open * (1.0f + a[i] * (1.0f - open));
    }
    outer(to, hidden, room->context, features, room->turned, g->sums.inner);
    product(w->direct, 1, features, g->moments, 0, 1, g->context, features, count);
    product(w->inner, 1, features, to, 0, 1, g->context, features, hidden);
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
    Room room;
    Slopes g;
    Weights w = weights_of(all, s->steps), to = weights_of(g_all, s->steps);
    Shape shape = {(int)s->bins, bound, edge};
    int64_t dim = s->dim, whole_value = dim * s->draws * s->batch;
    float **each = malloc(sizeof(float *) * 2 * s->steps);
    float *whole = malloc(sizeof(float) * lay_out(s, 0, &room));
    float *slopes = each ? calloc(lay_out_slopes(s, 0, each, &g), sizeof(float)) : 0;
    int failed = !whole || !slopes;
    if (!failed) {
        lay_out(s, whole, &room);
        lay_out_slopes(s, slopes, each, &g);
        memset(g_context, 0, sizeof(float) * s->batch * s->features);
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
            outer(g.gates, (int)gates_of(s), room.context, (int)s->features, room.turned, g.sums.given);
            product(w.given, 1, s->features, g.gates, 0, 0, g.context, (int)s->features, (int)gates_of(s));
            if (w.direct) gaussian_back(s, &w, &room, &g);
            for (int64_t i = 0; i < POINTS; i++)
                if (first + i % width < s->batch)
                    for (int64_t c = 0; c < s->features; c++)
                        g_context[(first + i % width) * s->features + c] += g.context[c * POINTS + i];
        }
        finish(s, &g.sums, &to);
    }
    free(each), free(whole), free(slopes);
    return failed;
}
