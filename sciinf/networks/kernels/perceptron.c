/* A multilayer perceptron with GELU between its layers, forward and backward, in single precision: blocks of POINTS
   rows go through all layers, and for the gradient forward once more. Blocks are (features, POINTS). */

#include "products.h"

typedef struct {
    int64_t layers, rows;
    const int64_t *widths; /* layers + 1 of them */
} Sizes;

/* Phi(x), the normal distribution, within 1e-7 (Abramowitz and Stegun, 7.1.26), and exp(-x^2 / 2). */
INLINED float normal(float x, float *bell) {
    float z = (x < 0.0f ? -x : x) * 0.70710678118654752f, t = 1.0f / (1.0f + 0.3275911f * z);
    *bell = exponential(-z * z);
    float p = ((((1.061405429f * t - 1.453152027f) * t + 1.421413741f) * t - 0.284496736f) * t + 0.254829592f) * t;
    float beyond = 0.5f * p * *bell;
    return x < 0.0f ? beyond : 1.0f - beyond;
}

static int64_t widest_of(const Sizes *s) {
    int64_t most = 0;
    for (int64_t l = 0; l <= s->layers; l++) most = s->widths[l] > most ? s->widths[l] : most;
    return most;
}

static int64_t numbers_of(const Sizes *s) {
    int64_t sum = 0;
    for (int64_t l = 0; l <= s->layers; l++) sum += s->widths[l];
    return sum;
}

/* Rows of an array to a block, the rest of which is 0, and back. */
static void load(const float *array, int64_t rows, int64_t features, float *block) {
    if (rows < POINTS) memset(block, 0, sizeof(float) * features * POINTS);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < features; c++) block[c * POINTS + i] = array[i * features + c];
}

static void save(float *array, int64_t rows, int64_t features, const float *block) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < features; c++) array[i * features + c] = block[c * POINTS + i];
}

/* All layers: what goes into each, one after another from `at`, and the end; and what comes before each GELU, unless
   `before` is 0. */
static float *through(const Sizes *s, float **all, float *at, float *before) {
    for (int64_t l = 0; l < s->layers; l++) {
        int64_t size = s->widths[l + 1] * POINTS;
        float *restrict next = at + s->widths[l] * POINTS;
        product(all[2 * l], s->widths[l], 1, at, all[2 * l + 1], 0, next, (int)s->widths[l + 1], (int)s->widths[l]);
        if (l < s->layers - 1) {
            float bell;
            if (before) memcpy(before, next, sizeof(float) * size), before += size;
            for (int64_t i = 0; i < size; i++) next[i] *= normal(next[i], &bell);
        }
        at = next;
    }
    return at;
}

/* x (rows, widths[0]) to out (rows, widths[layers]); weights and biases of a layer after another. Not 0 where there is
   no memory. */
int perceptron_forward(const float *x, float **all, float *out, const int64_t *widths, int64_t layers, int64_t rows) {
    FLUSHED;
    Sizes sizes = {layers, rows, widths}, *s = &sizes;
    float *room = malloc(sizeof(float) * POINTS * numbers_of(s));
    if (!room) return 1;
    for (int64_t first = 0; first < rows; first += POINTS) {
        int64_t real = rows - first < POINTS ? rows - first : POINTS;
        load(x + first * widths[0], real, widths[0], room);
        save(out + first * widths[layers], real, widths[layers], through(s, all, room, 0));
    }
    free(room);
    return 0;
}

/* Gradients of x, unless g_x is 0, and of the weights, from that of out. */
int perceptron_backward(const float *x, float **all, const float *g_out, float *g_x, float **g_all,
                        const int64_t *widths, int64_t layers, int64_t rows) {
    FLUSHED;
    Sizes sizes = {layers, rows, widths}, *s = &sizes;
    int64_t widest = widest_of(s), numbers = numbers_of(s), summed = 0;
    for (int64_t l = 0; l < layers; l++) summed += widths[l + 1] * PADDED(widths[l] + 1);
    float *room = malloc(sizeof(float) * POINTS * (2 * numbers + 2 * widest));
    float *sums = calloc(summed, sizeof(float)), *before = room + numbers * POINTS;
    float *g = before + numbers * POINTS, *other = g + widest * POINTS;
    int failed = !room || !sums;
    for (int64_t first = 0; !failed && first < rows; first += POINTS) {
        int64_t real = rows - first < POINTS ? rows - first : POINTS;
        load(x + first * widths[0], real, widths[0], room);
        float *at = through(s, all, room, before), *sum = sums + summed;
        float *bent = before;
        for (int64_t l = 1; l < layers; l++) bent += widths[l] * POINTS;
        load(g_out + first * widths[layers], real, widths[layers], g);
        for (int64_t l = layers - 1; l >= 0; l--) {
            int in = (int)widths[l], out = (int)widths[l + 1];
            int64_t size = (int64_t)in * POINTS;
            at -= size, sum -= (int64_t)out * PADDED(in + 1);
            outer(g, out, at, in, sum);
            if (!l && !g_x) break;
            product(all[2 * l], 1, in, g, 0, 0, other, in, out);
            if (l) {
                bent -= size;
                for (int64_t i = 0; i < size; i++) {
                    float bell, below = normal(bent[i], &bell);
                    other[i] *= below + bent[i] * 0.39894228040143268f * bell;
                }
            }
            float *spare = g;
            g = other, other = spare;
        }
        if (g_x) save(g_x + first * widths[0], real, widths[0], g);
    }
    for (int64_t l = 0, at = 0; !failed && l < layers; at += widths[l + 1] * PADDED(widths[l] + 1), l++)
        for (int64_t r = 0; r < widths[l + 1]; r++) {
            const float *sum = sums + at + r * PADDED(widths[l] + 1);
            memcpy(g_all[2 * l] + r * widths[l], sum, sizeof(float) * widths[l]);
            g_all[2 * l + 1][r] = sum[widths[l]];
        }
    free(room), free(sums);
    return failed;
}
