/* Splines of any number of points: arrays are (groups, rows, n), the n points contiguous. */

#include "spline_points.h"

#define OVER_BLOCKS(...)                                                                                      \
    FLUSHED;                                                                                                  \
    float *share = malloc(sizeof(float) * 2 * bins * POINTS);                                                 \
    if (!share) return 1;                                                                                     \
    Shape of = {bins, bound, edge};                                                                           \
    for (int64_t g = 0; g < groups; g++)                                                                      \
        for (int64_t j = 0; j < d; j++)                                                                       \
            for (int64_t start = 0; start < n; start += POINTS) {                                             \
                int m = n - start < POINTS ? (int)(n - start) : POINTS;                                       \
                int64_t at = (g * d + j) * n + start;                                                         \
                int64_t mine = (g * d * (3 * bins - 1) + j * 2 * bins) * n + start;                           \
                int64_t slopes = (g * d * (3 * bins - 1) + d * 2 * bins + j * (bins - 1)) * n + start;        \
                __VA_ARGS__;                                                                                  \
            }                                                                                                 \
    free(share);                                                                                              \
    return 0;

int spline_forward(const float *x, const float *raw, float *y, float *log_slope, int64_t groups, int64_t d, int64_t n,
                   int bins, float bound, float edge) {
    OVER_BLOCKS(forward(x + at, raw + mine, raw + slopes, n, m, of, y + at, log_slope + at, share))
}

int spline_inverse(const float *y, const float *raw, float *x, int64_t groups, int64_t d, int64_t n, int bins,
                   float bound, float edge) {
    OVER_BLOCKS(inverse(y + at, raw + mine, raw + slopes, n, m, of, x + at, share))
}

int spline_backward(const float *x, const float *raw, const float *g_y, const float *g_log, float *g_x, float *g_raw,
                    int64_t groups, int64_t d, int64_t n, int bins, float bound, float edge) {
    OVER_BLOCKS(backward(x + at, raw + mine, raw + slopes, g_y + at, g_log + at, n, m, of, g_x + at, g_raw + mine,
                         g_raw + slopes, share))
}
