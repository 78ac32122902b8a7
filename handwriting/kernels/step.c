/* One point of some lines, for writing: all that model.py computes of it, with weights of 8 bits.
 *
 * decoder.py has this file compiled. Weights are whole numbers from -127 to 127, with a scale for each row of each block
 * of columns; what layers hand on, h, whole numbers of 16 bits. Sums of their products are exact, in whatever order,
 * and a block's are never too large: a line does not depend on those beside it. All else is float, line by line, in
 * rows of a multiple of 16 numbers, so that each number is computed in the same way wherever it stands in memory.
 */

#include <string.h>

#include "functions.h"

#define GROUP 64        /* rows of a matrix that lie side by side: of each, two columns and two columns again */
#define BLOCK 80        /* columns */
#define TILE 4          /* lines that are multiplied at once */
#define LARGEST 32767.0f /* what stands for 1 in h */

#if defined(__AVX512BW__)
#include <immintrin.h>
#define TOGETHER 4 /* vectors of rows that are added up at once for a tile of lines */
typedef __m512i vector, weights; /* of sums, and of twice as many weights */
static inline weights widen(const int8_t *w) { return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const void *)w)); }
static inline vector add_products(vector sum, weights w, const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
#ifdef __AVX512VNNI__
    return _mm512_dpwssd_epi32(sum, w, _mm512_set1_epi32(both));
#else
    return _mm512_add_epi32(sum, _mm512_madd_epi16(w, _mm512_set1_epi32(both)));
#endif
}
#elif defined(__AVX2__)
#include <immintrin.h>
#define TOGETHER 2
typedef __m256i vector, weights;
static inline weights widen(const int8_t *w) { return _mm256_cvtepi8_epi16(_mm_loadu_si128((const void *)w)); }
static inline vector add_products(vector sum, weights w, const int16_t *pair) {
    int32_t both;
    memcpy(&both, pair, sizeof both);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, _mm256_set1_epi32(both)));
}
#else
#define TOGETHER 2
typedef struct { int32_t numbers[8]; } vector;
typedef struct { int8_t numbers[16]; } weights;
static inline weights widen(const int8_t *w) {
    weights found;
    memcpy(&found, w, sizeof found);
    return found;
}
static inline vector add_products(vector sum, weights w, const int16_t *pair) {
    for (int n = 0; n < 8; n++) sum.numbers[n] += w.numbers[2 * n] * pair[0] + w.numbers[2 * n + 1] * pair[1];
    return sum;
}
#endif

#define LANES (long)(sizeof(vector) / sizeof(int32_t))

typedef struct { /* words of 64 bits, as decoder.py puts them */
    int64_t B, layers, H, C, K, U, outputs, is_ahead;
    /* the network; for matrices and their scales see `add_product` */
    const float *of_inputs; /* (layers, 3 + C, 4H): each row is what is multiplied by one number of x and w */
    const int8_t *own;
    const float *own_scales;
    const int8_t *below;
    const float *below_scales;
    const int8_t *head;
    const float *head_scales, *head_bias, *window_bias;
    const int8_t *window;
    const float *window_scales, *max_log; /* and what logarithms of the window are cut off at */
    /* the lines: what does not change; the state; the results; and room for what is between them */
    const float *start;   /* (layers, B, 4H): what is always added to the gates */
    const int32_t *codes; /* (B, U), -1 for none */
    const float *places;  /* (B, U): the number of each place in the text */
    float *inputs, *kappa, *cells, *units; /* (B, 3 + C), x and w, (B, K), (layers, B, H), (layers, B) */
    int16_t *h;                           /* (layers, B, H) */
    float *of_own;                        /* (layers, B, 4H): what own weights add to the gates */
    float *said, *phi, *z;                /* (B, outputs), (B, U), and (B, the most rows) */
    int32_t *sums;                        /* (B, the most rows) */
} step;

/* `many` vectors of rows times `lines` lines: a block of h (lines, H) -> sums (lines, rows). */
static inline __attribute__((always_inline)) void multiply_tile(int many, int lines, long H, long rows, const int8_t *w,
                                                                const int16_t *h, int32_t *sums) {
    vector found[GROUP / 8][TILE];
    memset(found, 0, sizeof found);
    for (long column = 0; column < BLOCK; column += 2, w += 2 * GROUP)
#pragma GCC unroll 8
        for (int n = 0; n < many; n++) {
            weights both = widen(w + 2 * LANES * n);
#pragma GCC unroll 4
            for (int line = 0; line < lines; line++)
                found[n][line] = add_products(found[n][line], both, h + line * H + column);
        }
    for (int n = 0; n < many; n++)
        for (int line = 0; line < lines; line++) memcpy(sums + line * rows + LANES * n, &found[n][line], sizeof(vector));
}

/* A matrix (rows, BLOCK) times a block of h (B, H) -> sums (B, rows). */
static void multiply(long B, long rows, long H, const int8_t *w, const int16_t *h, int32_t *sums) {
    for (long row = 0; row < rows; row += GROUP, w += GROUP * BLOCK) {
        long b = 0;
        for (; b + TILE <= B; b += TILE)
            for (long n = 0; n < GROUP / LANES; n += TOGETHER)
                multiply_tile(TOGETHER, TILE, H, rows, w + 2 * LANES * n, h + b * H, sums + b * rows + row + LANES * n);
        for (; b < B; b++) multiply_tile(GROUP / LANES, 1, H, rows, w, h + b * H, sums + b * rows + row);
    }
}

/* y (B, rows) += a matrix (rows, H) times h of a layer: one block after the other, and all again `terms` times, for
 * weights that are the sum of as many numbers. Of each block scales (rows) say what a weight of 1 is worth. */
static void add_product(const step *s, long terms, long rows, const int8_t *w, const float *scales, long layer, float *y) {
    long B = s->B, H = s->H, blocks = H / BLOCK;
    for (long n = 0; n < terms * blocks; n++, w += rows * BLOCK, scales += rows) {
        multiply(B, rows, H, w, s->h + layer * B * H + n % blocks * BLOCK, s->sums);
        for (long b = 0; b < B; b++) {
            const int32_t *sums = s->sums + b * rows;
            float unit = s->units[layer * B + b], *line = y + b * rows;
#pragma omp simd
            for (long row = 0; row < rows; row++) line[row] += unit * scales[row] * (float)sums[row];
        }
    }
}

/* What x and w of line b add to the gates of a layer, z (4H). */
static void add_inputs(const step *s, long layer, long b, float *z) {
    long count = 3 + s->C, rows = 4 * s->H;
    for (long n = 0; n < count; n++) {
        const float *weights = s->of_inputs + (layer * count + n) * rows;
        float x = s->inputs[b * count + n];
        if (x != 0) /* few characters are in a text */
#pragma omp simd
            for (long row = 0; row < rows; row++) z[row] += x * weights[row];
    }
}

/* z (4H) -> the cells and h (H) of a line, and what a whole number of h is worth: not a number, if one of h is not. */
static float run_cells(long H, const float *z, float *cell, int16_t *h) {
    float all = 0;
#pragma omp simd reduction(+ : all)
    for (long n = 0; n < H; n++) {
        float o = sigmoid(z[n]), i = sigmoid(z[H + n]), f = sigmoid(z[2 * H + n]); /* (eq. 7, 8, 10) */
        float c = f * cell[n] + i * hyperbolic_tangent(z[3 * H + n]);              /* (eq. 9) */
        float number = o * hyperbolic_tangent(c);                                  /* (eq. 11) */
        float whole = LARGEST * (number == number ? number : 0);
        cell[n] = c;
        h[n] = (int16_t)(int32_t)(whole + (whole < 0 ? -0.5f : 0.5f));
        all += number;
    }
    return (1 + 0 * all) / LARGEST;
}

/* Of line b: kappa, phi and w of this point, given the logarithms (3K) of alpha, beta and kappa's advance (eq. 46-51). */
static void run_window(const step *s, long b, float *logs) {
    long K = s->K, U = s->U;
    const int32_t *codes = s->codes + b * U;
    const float *places = s->places + b * U;
    float *kappa = s->kappa + b * K, *phi = s->phi + b * U, *w = s->inputs + b * (3 + s->C) + 3;
    for (long k = 0; k < 3 * K; k++) logs[k] = logs[k] > *s->max_log ? *s->max_log : logs[k];
    memset(phi, 0, U * sizeof(float));
    for (long k = 0; k < K; k++) {
        float log_alpha = logs[k], beta = exponential(logs[K + k]), at = kappa[k] += exponential(logs[2 * K + k]);
#pragma omp simd
        for (long u = 0; u < U; u++) {
            float exponent = log_alpha - beta * (at - places[u]) * (at - places[u]);
            phi[u] += exponential(exponent < -60 ? -60 : exponent);
        }
    }
    memset(w, 0, s->C * sizeof(float));
    for (long u = 0; u < U; u++)
        if (codes[u] >= 0) w[codes[u]] += phi[u];
}

static void add_own(const step *s, long layer) {
    long rows = 4 * s->H;
    float *of_own = s->of_own + layer * s->B * rows;
    memset(of_own, 0, s->B * rows * sizeof(float));
    add_product(s, 1, rows, s->own + layer * rows * s->H, s->own_scales + layer * rows * (s->H / BLOCK), layer, of_own);
}

/* A bias (rows) for each line -> y (B, rows). */
static void spread(long B, long rows, const float *bias, float *y) {
    for (long b = 0; b < B; b++) memcpy(y + b * rows, bias, rows * sizeof(float));
}

/* Own weights are read at the end of a point for the next one, and there just before: at each second point they need
 * not come from far away, for what was read last is in the processor's cache. */
void take_step(step *s) {
    long B = s->B, H = s->H, rows = 4 * H, blocks = H / BLOCK, outputs = s->outputs;
    long window_rows = (3 * s->K + GROUP - 1) / GROUP * GROUP;
    for (long n = 0; n < s->layers; n++) {
        if (!s->is_ahead) add_own(s, n);
        memcpy(s->z, s->start + n * B * rows, B * rows * sizeof(float));
        if (n) add_product(s, 1, rows, s->below + n * rows * H, s->below_scales + n * rows * blocks, n - 1, s->z);
        for (long b = 0; b < B; b++) {
            float *z = s->z + b * rows, *of_own = s->of_own + (n * B + b) * rows;
            add_inputs(s, n, b, z);
            for (long row = 0; row < rows; row++) z[row] += of_own[row];
            s->units[n * B + b] = run_cells(H, z, s->cells + (n * B + b) * H, s->h + (n * B + b) * H);
        }
        if (!s->is_ahead) add_own(s, n);
        if (n == 0 && s->C) {
            spread(B, window_rows, s->window_bias, s->z);
            add_product(s, 2, window_rows, s->window, s->window_scales, 0, s->z);
            for (long b = 0; b < B; b++) run_window(s, b, s->z + b * window_rows);
        }
    }
    spread(B, outputs, s->head_bias, s->said);
    for (long n = 0; n < s->layers; n++)
        add_product(s, 2, outputs, s->head + 2 * n * outputs * H, s->head_scales + 2 * n * outputs * blocks, n, s->said);
    s->is_ahead = !s->is_ahead;
}
