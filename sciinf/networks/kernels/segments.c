/* The recursion of nets/segmented.py, forward and backward, a row at a time: sums over all ways in which a series falls
   into segments. Numbers between are in double precision, divided by their sum at each step; FLOOR keeps those that
   fade from slow arithmetic. Laws are padded to LANES, so that sums over them are taken side by side. */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define LANES 8
#define FLOOR 1e-30

typedef struct {
    int64_t steps, laws, padded, counts;  /* T, R, R padded, and 1 + the most changes */
    const double *odds;                   /* (T + 1, counts): probability of d changes in a cell, over k! */
    const double *weight;                 /* (padded) */
    double *item, *along, *total, *fresh, *scale, *back, *to_weight;
} Room;

static double sum(const double *restrict a, int64_t n) {
    double part[LANES] = {0}, all = 0;
    for (int64_t i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) part[k] += a[i + k];
    for (int k = 0; k < LANES; k++) all += part[k];
    return all;
}

static double dot(const double *restrict a, const double *restrict b, int64_t n) {
    double part[LANES] = {0}, all = 0;
    for (int64_t i = 0; i < n; i += LANES)
        for (int k = 0; k < LANES; k++) part[k] += a[i + k] * b[i + k];
    for (int k = 0; k < LANES; k++) all += part[k];
    return all;
}

/* Probabilities of items into padded doubles. */
static void enter(const Room *r, const float *items) {
    for (int64_t t = 0; t < r->steps; t++)
        for (int64_t i = 0; i < r->padded; i++)
            r->item[t * r->padded + i] = i < r->laws ? (double)items[t * r->laws + i] : 0.0;
}

/* What is before each step and after it; log of all that was divided by. `along` is (T, counts, padded). */
static double ahead(const Room *r) {
    int64_t n = r->padded, c = r->counts, size = n * c;
    double log_scale = 0;
    for (int64_t t = 0; t < r->steps; t++) {
        double *now = r->along + t * size, *total = r->total + t * c, *fresh = r->fresh + t * c;
        const double *odds = r->odds + t * c, *item = r->item + t * n;
        for (int64_t j = 0; j < c; j++) {
            total[j] = t ? sum(now - size + j * n, n) : 0.0;
            fresh[j] = t ? 0.0 : odds[j];
            for (int64_t d = 1; t && d <= j; d++) fresh[j] += total[j - d] * odds[d];
        }
        double all = 0;
        for (int64_t j = 0; j < c; j++) {
            double *restrict to = now + j * n;
            const double *restrict from = t ? now - size + j * n : r->weight, keep = t ? 1.0 : 0.0;
            for (int64_t i = 0; i < n; i++) to[i] = (keep * from[i] + r->weight[i] * fresh[j]) * item[i];
            all += sum(to, n);
        }
        double scale = 1.0 / (all + FLOOR);
        for (int64_t i = 0; i < size; i++) now[i] = now[i] * scale + FLOOR;
        r->scale[t] = scale;
        log_scale -= log(scale);
    }
    return log_scale;
}

/* Sums over all ways with 0, 1, ... changes, of what `ahead` left. */
static void ends(const Room *r, double *found) {
    int64_t n = r->padded, c = r->counts;
    const double *last = r->along + (r->steps - 1) * n * c, *odds = r->odds + r->steps * c;
    for (int64_t j = 0; j < c; j++) {
        found[j] = 0;
        for (int64_t d = 0; d <= j; d++) found[j] += sum(last + (j - d) * n, n) * odds[d];
        found[j] += FLOOR * FLOOR;
    }
}

/* Gradients of logs of these sums, times `given`: to the log probability of each item, and to weights (added up). */
static void behind(const Room *r, const float *given, float *to_items) {
    int64_t n = r->padded, c = r->counts, size = n * c;
    double found[64];
    ends(r, found);
    const double *last = r->odds + r->steps * c;
    for (int64_t j = 0; j < c; j++) {
        double slope = 0;
        for (int64_t d = 0; j + d < c; d++) slope += (double)given[j + d] / found[j + d] * last[d];
        for (int64_t i = 0; i < n; i++) r->back[j * n + i] = slope;
    }
    for (int64_t t = r->steps - 1; t >= 0; t--) {
        const double *now = r->along + t * size, *item = r->item + t * n, *odds = r->odds + t * c;
        double scale = r->scale[t], to_fresh[64];
        for (int64_t i = 0; i < r->laws; i++) {
            double all = 0;
            for (int64_t j = 0; j < c; j++) all += r->back[j * n + i] * (now[j * n + i] - FLOOR);
            to_items[t * r->laws + i] = (float)all;
        }
        for (int64_t j = 0; j < c; j++) {
            double *restrict back = r->back + j * n, fresh = r->fresh[t * c + j];
            for (int64_t i = 0; i < n; i++) back[i] *= item[i] * scale;
            to_fresh[j] = dot(back, r->weight, n);
            for (int64_t i = 0; i < n; i++) r->to_weight[i] += back[i] * fresh;
        }
        for (int64_t j = 0; t && j < c; j++) {
            double slope = 0;
            for (int64_t d = 1; j + d < c; d++) slope += to_fresh[j + d] * odds[d];
            for (int64_t i = 0; i < n; i++) r->back[j * n + i] += slope;
        }
    }
}

static int open_room(Room *r, int64_t steps, int64_t laws, int64_t counts, const double *odds, const double *weight) {
    int64_t n = (laws + LANES - 1) / LANES * LANES;
    int64_t size = n + steps * n + steps * counts * n + 2 * steps * counts + steps + counts * n + n;
    double *all = calloc(size, sizeof(double));
    if (!all || counts > 64) { free(all); return 1; }
    memcpy(all, weight, laws * sizeof(double));
    *r = (Room){steps, laws, n, counts, odds, all, 0, 0, 0, 0, 0, 0, 0};
    r->item = all + n;
    r->along = r->item + steps * n;
    r->total = r->along + steps * counts * n;
    r->fresh = r->total + steps * counts;
    r->scale = r->fresh + steps * counts;
    r->back = r->scale + steps;
    r->to_weight = r->back + counts * n;
    return 0;
}

/* items (rows, T, R), odds (T + 1, counts), weight (R); found (rows, counts). Not 0 where there is no memory. */
int segments_forward(const float *items, const double *odds, const double *weight, float *found, int64_t rows,
                     int64_t steps, int64_t laws, int64_t counts) {
    Room r;
    double sums[64];
    if (open_room(&r, steps, laws, counts, odds, weight)) return 1;
    for (int64_t row = 0; row < rows; row++) {
        enter(&r, items + row * steps * laws);
        double log_scale = ahead(&r);
        ends(&r, sums);
        for (int64_t j = 0; j < counts; j++) found[row * counts + j] = (float)(log(sums[j]) + log_scale);
    }
    free((void *)r.weight);
    return 0;
}

/* Gradients of items' log probabilities (rows, T, R) and of weights (R) from those of `found`. */
int segments_backward(const float *items, const double *odds, const double *weight, const float *given,
                      float *to_items, double *to_weight, int64_t rows, int64_t steps, int64_t laws, int64_t counts) {
    Room r;
    if (open_room(&r, steps, laws, counts, odds, weight)) return 1;
    for (int64_t row = 0; row < rows; row++) {
        enter(&r, items + row * steps * laws);
        ahead(&r);
        behind(&r, given + row * counts, to_items + row * steps * laws);
    }
    memcpy(to_weight, r.to_weight, laws * sizeof(double));
    free((void *)r.weight);
    return 0;
}
