/* Products of matrices with blocks of POINTS columns, in single precision.

   A tile of the result, TALL rows of WIDE vectors, stays in registers while its sum runs. Blocks are (rows, POINTS),
   and stay in fast caches from one layer of a network to the next: three times as fast as a library's product of small
   matrices, each of which comes from further away. */

#include <stdint.h>
#include <string.h>

#include "spline_points.h"

#ifdef __AVX512F__
#define LANES 16
#define WIDE 4
#else
#define LANES 8
#define WIDE 2
#endif
#define TALL 5
#define DEEP 128
#define PADDED(columns) (((columns) + LANES - 1) / LANES * LANES)
#define INLINED static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* For `rows`, of which TALL at a time, the last of them fewer: do TILE(how many). */
#define OVER_ROWS(rows, TILE)                      \
    for (int r = 0; r < (rows); r += TALL)         \
        switch ((rows) - r < TALL ? (rows) - r : TALL) { \
            case 1: TILE(1); break;                \
            case 2: TILE(2); break;                \
            case 3: TILE(3); break;                \
            case 4: TILE(4); break;                \
            default: TILE(TALL);                   \
        }

INLINED void product_tile(const float *w, int64_t down, int64_t along, const float *x, const float *bias, int add,
                          float *out, int inner, const int rows) {
    vector sum[TALL][WIDE];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) {
            sum[r][c] = (vector){0} + (bias ? bias[r] : 0.0f);
            if (add) sum[r][c] += *(vector *)(out + r * POINTS + c * LANES);
        }
    for (int k = 0; k < inner; k++) {
        vector from[WIDE];
        for (int c = 0; c < WIDE; c++) from[c] = *(const vector *)(x + k * POINTS + c * LANES);
        for (int r = 0; r < rows; r++) {
            float by = w[r * down + k * along];
            for (int c = 0; c < WIDE; c++) sum[r][c] += by * from[c];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < WIDE; c++) *(vector *)(out + r * POINTS + c * LANES) = sum[r][c];
}

/* out = W x + bias, or added to it; W (rows, inner), its entries `down` and `along` apart; bias may be 0. Of x as many
   rows at a time as stay in the fastest cache. */
static void product(const float *w, int64_t down, int64_t along, const float *x, const float *bias, int add, float *out,
                    int rows, int inner) {
    for (int k = 0; k < inner || !k; k += DEEP, add = 1, bias = 0) {
        int some = inner - k < DEEP ? inner - k : DEEP;
        const float *mine = w + k * along, *from = x + k * POINTS;
        for (int c = 0; c < POINTS; c += WIDE * LANES) {
#define TILE(n) \
    product_tile(mine + r * down, down, along, from + c, bias ? bias + r : 0, add, out + r * POINTS + c, some, n)
            OVER_ROWS(rows, TILE)
#undef TILE
        }
    }
}

INLINED void outer_tile(const float *y, const float *x, int64_t width, float *out, const int rows, const int wide) {
    vector sum[TALL][WIDE];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) sum[r][c] = *(vector *)(out + r * width + c * LANES);
    for (int p = 0; p < POINTS; p++) {
        vector from[WIDE];
        for (int c = 0; c < wide; c++) from[c] = *(const vector *)(x + (p * WIDE + c) * LANES);
        for (int r = 0; r < rows; r++) {
            float by = y[r * POINTS + p];
            for (int c = 0; c < wide; c++) sum[r][c] += by * from[c];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < wide; c++) *(vector *)(out + r * width + c * LANES) = sum[r][c];
}

/* Up to WIDE * LANES columns: turned (POINTS, WIDE * LANES), with a column of 1 after the last and 0 beyond. */
static void turn(const float *x, int columns, float *restrict turned) {
    int square = columns / 4 * 4, width = WIDE * LANES; /* in squares of 4: twice as fast */
    for (int k = 0; k < square; k += 4)
        for (int p = 0; p < POINTS; p += 4)
            for (int i = 0; i < 4; i++)
                for (int j = 0; j < 4; j++) turned[(p + i) * width + k + j] = x[(k + j) * POINTS + p + i];
    for (int p = 0; p < POINTS; p++) {
        for (int k = square; k < columns; k++) turned[p * width + k] = x[k * POINTS + p];
        for (int k = columns; k < width; k++) turned[p * width + k] = k == columns;
    }
}

/* out += y [x, 1]^T: the gradient of a matrix, and of its bias in the column after it. y is (rows, POINTS), x is
   (columns, POINTS), out is (rows, PADDED(columns + 1)). */
static void outer(const float *y, int rows, const float *x, int columns, float *out) {
    float turned[POINTS * WIDE * LANES];
    int64_t width = PADDED(columns + 1);
    int alone = columns % LANES == 0; /* whether the bias would be a vector by itself */
    for (int c = 0; c < PADDED(columns + !alone); c += WIDE * LANES) {
        int64_t left = (PADDED(columns + !alone) - c) / LANES;
        turn(x + (int64_t)c * POINTS, columns - c < WIDE * LANES ? columns - c : WIDE * LANES, turned);
#define TILE(n)                                                                                               \
    switch (left) {                                                                                           \
        case 1: outer_tile(y + r * POINTS, turned, width, out + r * width + c, n, 1); break;                  \
        case 2: outer_tile(y + r * POINTS, turned, width, out + r * width + c, n, WIDE < 2 ? WIDE : 2); break; \
        case 3: outer_tile(y + r * POINTS, turned, width, out + r * width + c, n, WIDE < 3 ? WIDE : 3); break; \
        default: outer_tile(y + r * POINTS, turned, width, out + r * width + c, n, WIDE);                     \
    }
        OVER_ROWS(rows, TILE)
#undef TILE
    }
    for (int r = 0; alone && r < rows; r++) {
        vector sum = {0};
        for (int p = 0; p < POINTS; p += LANES) sum += *(const vector *)(y + r * POINTS + p);
        for (int i = 0; i < LANES; i++) out[r * width + columns] += sum[i];
    }
}
