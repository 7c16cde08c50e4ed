/* Rational-quadratic splines in single precision: the formulas of rational_quadratic.py, point by point.

   Points are contiguous; the rows of raw numbers are n apart. Each loop over points is one that compilers make vectors
   of: no branches, no calls, and an exponential and a logarithm (Cephes' polynomials, within two units in the last
   place) that are arithmetic alone. NaN stays NaN. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "flushed.h"

#define POINTS 64 /* at a time: what they need stays in the fastest cache */
#define LEAST 1e-3f
#define EACH for (int i = 0; i < m; i++)

static inline float power_of_two(int32_t n) {
    int32_t bits = (n + 127) << 23;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline float exponential(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
    float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    return (p * r * r + r + 1.0f) * power_of_two((int32_t)n);
}

static inline float logarithm(float x) {
    int32_t bits;
    memcpy(&bits, &x, 4);
    int32_t e = (bits >> 23) - 126, half = (bits & 0x007fffff) | 0x3f000000;
    float m;
    memcpy(&m, &half, 4);
    int32_t low = m < 0.707106781186547524f;
    float n = (float)(e - low);
    m = (low ? m + m : m) - 1.0f;
    float z = m * m, p = 7.0376836292e-2f;
    p = p * m - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    float y = p * m * z + n * -2.12194440e-4f - 0.5f * z;
    y = (m + y) + n * 0.693359375f;
    return x > 0.0f ? y + (x - x) : NAN;
}

static inline float softplus(float t) { /* max(t, 0) + log1p(exp(-|t|)) */
    float u = exponential(t < 0.0f ? t : -t), w = 1.0f + u, by = w - 1.0f;
    float small = by == 0.0f ? u : logarithm(w) * (u / (by == 0.0f ? 1.0f : by));
    return (t > 0.0f ? t : 0.0f) + small + (t - t);
}

/* Of up to POINTS points: the bin of each, its begin and extent as shares, and the raw slopes at its ends. */
typedef struct {
    float begin[2][POINTS], own[2][POINTS], left[POINTS], right[POINTS];
    int32_t index[POINTS];
} Cell;

/* Shares of all bins, (2, K, POINTS), and the cell of each value; of: 0 where values are x, 1 where they are y. */
static void find(const float *value, const float *raw, const float *slopes, float edge, int64_t n, int m, int bins,
                 int of, float *restrict share, Cell *restrict c) {
    for (int axis = 0; axis < 2; axis++) {
        const float *from = raw + (int64_t)axis * bins * n;
        float *restrict to = share + axis * bins * POINTS;
        float most[POINTS], sum[POINTS];
        EACH most[i] = from[i];
        for (int k = 1; k < bins; k++) EACH most[i] = from[k * n + i] > most[i] ? from[k * n + i] : most[i];
        EACH sum[i] = 0.0f;
        for (int k = 0; k < bins; k++) EACH {
            float e = exponential(from[k * n + i] - most[i]);
            to[k * POINTS + i] = e;
            sum[i] += e;
        }
        EACH sum[i] = 1.0f / sum[i];
        for (int k = 0; k < bins; k++) EACH to[k * POINTS + i] *= sum[i];
    }
    float reached[2][POINTS];
    const float *w = share, *h = share + bins * POINTS;
    float free = 1.0f - LEAST * bins;
    EACH {
        c->index[i] = 0;
        c->begin[0][i] = c->begin[1][i] = reached[0][i] = reached[1][i] = 0.0f;
        c->own[0][i] = w[i];
        c->own[1][i] = h[i];
        c->left[i] = edge;
        c->right[i] = slopes[i];
    }
    for (int k = 1; k < bins; k++) {
        const float *w0 = w + (k - 1) * POINTS, *h0 = h + (k - 1) * POINTS, *w1 = w0 + POINTS, *h1 = h0 + POINTS;
        const float *t0 = slopes + (k - 1) * n, *t1 = k < bins - 1 ? t0 + n : t0;
        int last = k == bins - 1;
        EACH {
            reached[0][i] += w0[i];
            reached[1][i] += h0[i];
            float knot = LEAST * k + free * reached[of][i];
            int32_t past = value[i] >= knot;
            c->index[i] = past ? k : c->index[i];
            c->begin[0][i] = past ? reached[0][i] : c->begin[0][i];
            c->begin[1][i] = past ? reached[1][i] : c->begin[1][i];
            c->own[0][i] = past ? w1[i] : c->own[0][i];
            c->own[1][i] = past ? h1[i] : c->own[1][i];
            c->left[i] = past ? t0[i] : c->left[i];
            c->right[i] = past ? (last ? edge : t1[i]) : c->right[i];
        }
    }
}

/* The bin of a point: where it begins, how far it goes, the slopes at its ends, and s. */
typedef struct {
    float a, b, w, h, d0, d1, s;
} Bin;

static inline Bin bin_of(const Cell *c, int i, float bound, float free_) {
    Bin bin;
    float across = 2.0f * bound, floor = LEAST * c->index[i];
    bin.a = across * (floor + free_ * c->begin[0][i]) - bound;
    bin.b = across * (floor + free_ * c->begin[1][i]) - bound;
    bin.w = across * (LEAST + free_ * c->own[0][i]);
    bin.h = across * (LEAST + free_ * c->own[1][i]);
    bin.d0 = LEAST + softplus(c->left[i]);
    bin.d1 = LEAST + softplus(c->right[i]);
    bin.s = bin.h / bin.w;
    return bin;
}

/* part / whole, kept in [0, 1]. */
static inline float share_of(float part, float whole) {
    float share = part / whole;
    share = share < 0.0f ? 0.0f : share;
    return share > 1.0f ? 1.0f : share;
}

/* What all splines share. */
typedef struct {
    int bins;
    float bound, edge;
} Shape;

/* y and log dy/dx of m points; share: room for 2 K POINTS numbers. */
static void forward(const float *restrict xs, const float *mine, const float *slopes, int64_t n, int m, Shape of,
                    float *restrict ys, float *restrict ls, float *restrict share) {
    int bins = of.bins;
    float bound = of.bound, edge = of.edge, free_ = 1.0f - LEAST * bins, across = 2.0f * bound, value[POINTS];
    Cell c;
    EACH value[i] = xs[i] / across + 0.5f;
    find(value, mine, slopes, edge, n, m, bins, 0, share, &c);
    EACH {
        Bin bin = bin_of(&c, i, bound, free_);
        float s = bin.s;
        float d0 = bin.d0;
        float d1 = bin.d1;
        float r = share_of(xs[i] - bin.a, bin.w);
        float rest = 1.0f - r, q = r * rest;
        float denominator = s + (d0 + d1 - 2.0f * s) * q;
        float top = d1 * r * r + 2.0f * s * q + d0 * rest * rest;
        float over = s / denominator;
        int32_t inside = fabsf(xs[i]) <= bound;
        float bent = bin.b + bin.h * (s * r + d0 * rest) * r / denominator;
        float slope = 2.0f * logarithm(over) + logarithm(top);
        ys[i] = inside ? bent : xs[i];
        ls[i] = inside ? slope : 0.0f;
    }
}

/* x where `forward` gives y. */
static void inverse(const float *restrict ys, const float *mine, const float *slopes, int64_t n, int m, Shape of,
                    float *restrict xs, float *restrict share) {
    int bins = of.bins;
    float bound = of.bound, edge = of.edge, free_ = 1.0f - LEAST * bins, across = 2.0f * bound, value[POINTS];
    Cell c;
    EACH value[i] = ys[i] / across + 0.5f;
    find(value, mine, slopes, edge, n, m, bins, 1, share, &c);
    EACH {
        Bin bin = bin_of(&c, i, bound, free_);
        float s = bin.s;
        float d0 = bin.d0;
        float d1 = bin.d1;
        float t = share_of(ys[i] - bin.b, bin.h);
        float e = t * (d0 + d1 - 2.0f * s);
        float quadratic = s - d0 + e;
        float linear = d0 - e;
        float constant = s * t;
        float under = linear * linear + 4.0f * quadratic * constant;
        under = under < 0.0f ? 0.0f : under;
        float r = share_of(2.0f * constant, linear + sqrtf(under));
        xs[i] = fabsf(ys[i]) <= bound ? bin.a + r * bin.w : ys[i];
    }
}

/* Gradients of x and of the raw numbers from those of y and log dy/dx. */
static void backward(const float *restrict xs, const float *mine, const float *slopes, const float *restrict gy,
                     const float *restrict gl, int64_t n, int m, Shape of, float *restrict gx, float *restrict g_mine,
                     float *restrict g_slopes, float *restrict share) {
    int bins = of.bins;
    float bound = of.bound, edge = of.edge, free_ = 1.0f - LEAST * bins, across = 2.0f * bound, value[POINTS];
    float before[2][POINTS], own[2][POINTS], to_left[POINTS], to_right[POINTS];
    Cell c;
    EACH value[i] = xs[i] / across + 0.5f;
    find(value, mine, slopes, edge, n, m, bins, 0, share, &c);
    EACH {
        Bin bin = bin_of(&c, i, bound, free_);
        float s = bin.s;
        float d0 = bin.d0;
        float d1 = bin.d1;
        float r = share_of(xs[i] - bin.a, bin.w);
        float rest = 1.0f - r;
        float q = r * rest;
        float e = d0 + d1 - 2.0f * s;
        float turn = 1.0f - 2.0f * r;
        float numerator = (s * r + d0 * rest) * r;
        float denominator = s + e * q;
        float top = d1 * r * r + 2.0f * s * q + d0 * rest * rest;
        float in = fabsf(xs[i]) <= bound ? 1.0f : 0.0f;
        float y_ = gy[i] * in;
        float l_ = gl[i] * in;
        float over = bin.h * y_ / (denominator * denominator);
        float by_m = l_ / top;
        float by_d = 2.0f * l_ / denominator;
        float g_r = over * s * top + 2.0f * by_m * (d1 * r + s * turn - d0 * rest) - by_d * e * turn;
        float g_s = over * (r * r * denominator - numerator * (1.0f - 2.0f * q)) + 2.0f * (l_ / s + by_m * q) -
                    by_d * (1.0f - 2.0f * q);
        float g_0 = over * q * (denominator - numerator) + by_m * rest * rest - by_d * q;
        float g_1 = by_m * r * r - over * numerator * q - by_d * q;
        float g = g_r / bin.w;
        float scale = across * free_;
        float before_x = -scale * g;
        float before_y = scale * y_;
        float own_x = -scale * (g_r * r + g_s * s) / bin.w;
        float own_y = scale * (y_ * numerator / denominator + g_s / bin.w);
        float mean_x = before_x * c.begin[0][i] + own_x * c.own[0][i];
        float mean_y = before_y * c.begin[1][i] + own_y * c.own[1][i];
        before[0][i] = before_x - mean_x;
        before[1][i] = before_y - mean_y;
        own[0][i] = own_x - mean_x;
        own[1][i] = own_y - mean_y;
        value[i] = -mean_x;
        c.begin[1][i] = -mean_y;
        to_left[i] = c.index[i] > 0 ? g_0 * (1.0f - exponential(LEAST - d0)) : 0.0f;
        to_right[i] = c.index[i] < bins - 1 ? g_1 * (1.0f - exponential(LEAST - d1)) : 0.0f;
        gx[i] = g + gy[i] * (1.0f - in);
    }
    for (int axis = 0; axis < 2; axis++) {
        const float *after = axis ? c.begin[1] : value;
        for (int k = 0; k < bins; k++) {
            const float *restrict part = share + (axis * bins + k) * POINTS;
            float *restrict to = g_mine + (int64_t)(axis * bins + k) * n;
            EACH {
                float by = c.index[i] > k ? before[axis][i] : after[i];
                to[i] = (c.index[i] == k ? own[axis][i] : by) * part[i];
            }
        }
    }
    for (int k = 0; k < bins - 1; k++) {
        float *restrict to = g_slopes + (int64_t)k * n;
        EACH to[i] = (c.index[i] == k + 1 ? to_left[i] : 0.0f) + (c.index[i] == k ? to_right[i] : 0.0f);
    }
}
