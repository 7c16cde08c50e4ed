/* What couplings.c keeps for a block of points: sizes, weights, room, and gradients. */

#include "products.h"

/* layers: residual blocks of a network; of `batch` rows of the context those from `start` to `stop` are worked on. */
typedef struct {
    int64_t dim, features, hidden, bins, steps, layers, batch, draws, start, stop;
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

/* Blocks. Features of the context, what they give to all layers and to the Gaussian, the layer within the latter; z; of
   the step at work its dimensions as they came and as they enter the map, the raw numbers of its splines and their
   logarithms; of its network what leaves the last layer, and for each residual block its input, what is within it, and
   the change that it makes. */
typedef struct {
    float *context, *gates, *moments, *scale, *bent, *z, *value, *came, *went, *raw, *log_slope, *share;
    float *end, *input, *within, *change;
} Room;

static int64_t lay_out(const Sizes *s, float *at, Room *room) {
    int64_t length = 0, inner = s->hidden * s->layers;
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
    BLOCK(end, s->hidden);
    BLOCK(input, inner);
    BLOCK(within, inner);
    BLOCK(change, inner);
#undef BLOCK
    return length;
}

/* Memory for all of them; 0 where there is none. */
static float *make_room(const Sizes *s, Room *room) {
    float *whole = malloc(sizeof(float) * lay_out(s, 0, room));
    if (whole) lay_out(s, whole, room);
    return whole;
}

/* How many rows of the context a block has: as many in each, for all blocks to be well filled. */
static int64_t width_of(const Sizes *s) {
    int64_t rows = s->stop - s->start, blocks = (rows + POINTS - 1) / POINTS;
    return (rows + blocks - 1) / blocks;
}

#define OVER_ROWS_OF_CONTEXT for (int64_t width = width_of(s), first = s->start; first < s->stop; first += width)
#define OVER_DRAWS for (int64_t draw = 0; draw < s->draws; draw += POINTS / width)

/* Copy points of a block from an array (rows, draws, batch), the rest of the block being 0, or into it. */
static void copy(const Sizes *s, float *array, int64_t rows, int64_t first, int64_t width, int64_t draw, float *block,
                 int into) {
    int64_t room = POINTS / width, draws = s->draws - draw < room ? s->draws - draw : room;
    int64_t real = s->stop - first < width ? s->stop - first : width;
    if (!into) memset(block, 0, sizeof(float) * rows * POINTS);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t d = 0; d < draws; d++) {
            float *at = array + (r * s->draws + draw + d) * s->batch + first, *mine = block + r * POINTS + d * width;
            memcpy(into ? at : mine, into ? mine : at, sizeof(float) * real);
        }
}

/* Gradients. Blocks of those of a block's gates, the Gaussian's numbers, z, what the steps began with, log |det|, what
   entered a map, raw numbers, what is in a network, within a residual block, and of the context; and sums of those of the
   weights, whose rows are padded, and in which the bias is the last column of its matrix. */
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
