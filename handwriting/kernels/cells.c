/* What a layer of LSTM does between its products, at one point of B lines, and the mixture's loss at many points: each
 * in one pass over the memory.
 *
 * `forward` and `backward` of cells.py are the same in PyTorch; cells.py has this file compiled. The loss's plain code
 * is in model.py. All arrays but d_h are contiguous. Gates stand in the order output, input, forget, candidate. There
 * is no branch in the loops, so that compilers make vectors of them.
 */

#include <math.h>

#include "functions.h"

typedef uint16_t bfloat16; /* the upper half of a float */

static inline float widen(bfloat16 upper) {
    word w = {.bits = (uint32_t)upper << 16};
    return w.number;
}

static inline bfloat16 narrow(float number) { /* to the nearest; of two as near, to the even one */
    word w = {.number = number};
    return (w.bits + 0x7fff + (w.bits >> 16 & 1)) >> 16;
}

/* What products give and take is bfloat16 where `low` is 1, and else float. */
static inline float get(const void *numbers, long n, int low) {
    return low ? widen(((const bfloat16 *)numbers)[n]) : ((const float *)numbers)[n];
}

static inline void set(void *numbers, long n, int low, float number) {
    if (low)
        ((bfloat16 *)numbers)[n] = narrow(number);
    else
        ((float *)numbers)[n] = number;
}

static inline void *row_of(const void *numbers, long n, int low) { return (char *)numbers + n * (low ? 2 : 4); }

static inline void forward(long B, long H, int low, const void *zs, const float *before, float *gates, float *cell,
                           float *h) {
    for (long b = 0; b < B; b++, before += H, gates += 4 * H, cell += H, h += H) {
        const void *z = row_of(zs, b * 4 * H, low);
#pragma omp simd
        for (long n = 0; n < H; n++) {
            float o = sigmoid(get(z, n, low)), i = sigmoid(get(z, H + n, low)); /* (eq. 7, 8, 10) */
            float f = sigmoid(get(z, 2 * H + n, low)), g = hyperbolic_tangent(get(z, 3 * H + n, low));
            float c = f * before[n] + i * g; /* (eq. 9) */
            gates[n] = o, gates[H + n] = i, gates[2 * H + n] = f, gates[3 * H + n] = g;
            cell[n] = c;
            h[n] = o * hyperbolic_tangent(c); /* (eq. 11) */
        }
    }
}

static inline void backward(long B, long H, int low, long row, const float *before, const float *gates,
                            const float *cell, const float *d_h, float *d_cell, void *d_zs) {
    for (long b = 0; b < B; b++, before += H, gates += 4 * H, cell += H, d_h += row, d_cell += H) {
        void *d_z = row_of(d_zs, b * 4 * H, low);
#pragma omp simd
        for (long n = 0; n < H; n++) {
            float o = gates[n], i = gates[H + n], f = gates[2 * H + n], g = gates[3 * H + n];
            float c = hyperbolic_tangent(cell[n]), d_c = d_cell[n] + d_h[n] * o * (1 - c * c); /* (eq. 11) */
            set(d_z, n, low, d_h[n] * c * o * (1 - o));
            set(d_z, H + n, low, d_c * g * i * (1 - i)); /* (eq. 9) */
            set(d_z, 2 * H + n, low, d_c * before[n] * f * (1 - f));
            set(d_z, 3 * H + n, low, d_c * i * (1 - g * g));
            d_cell[n] = d_c * f;
        }
    }
}

/* z (B, 4H), before (B, H) -> gates (B, 4, H), cell (B, H), h (B, H). */
void cells_forward(long B, long H, long low, const void *z, const float *before, float *gates, float *cell, float *h) {
    low ? forward(B, H, 1, z, before, gates, cell, h) : forward(B, H, 0, z, before, gates, cell, h);
}

/* d_h (B, H), whose rows are `row` apart, and d_cell (B, H) -> d_z (B, 4H), and d_cell of before. */
void cells_backward(long B, long H, long low, long row, const float *before, const float *gates, const float *cell,
                    const float *d_h, float *d_cell, void *d_z) {
    low ? backward(B, H, 1, row, before, gates, cell, d_h, d_cell, d_z)
        : backward(B, H, 0, row, before, gates, cell, d_h, d_cell, d_z);
}

static inline float bounded(float x, float most) { /* not a number stays so */
    x = x > most ? most : x;
    return x < -most ? -most : x;
}

/* log(1 + x) for x from 0 to 1, to some 1E-7 of it: 2 artanh(x / (2 + x)) */
static inline float log_1_plus(float x) {
    float s = x / (2 + x), s2 = s * s;
    return 2 * s * (1 + s2 * (1 / 3.0f + s2 * (1 / 5.0f + s2 * (1 / 7.0f + s2 * (1 / 9.0f + s2 * (1 / 11.0f + s2 / 13))))));
}

/* e^x, or 0 where that is nothing beside 1: products with denormalised numbers are ten times as slow */
static inline float share_of(float x) { return x < -60 ? 0 : exponential(x); }

/* log x of a sum that is at least 1, or not a number */
static inline float logarithm(float x) {
    word w = {.number = x};
    int32_t exponent = (int32_t)(w.bits >> 23) - 127;
    w.bits = (w.bits & 0x7fffff) | 127u << 23; /* the number from 1 to 2 */
    return (x - x) + exponent * 0.693147181f + log_1_plus(w.number - 1);
}

/* Loss (eq. 26), squared error and gradient of the loss by the outputs (eq. 28-37) of N points, with M components.
 *
 * outputs (N, 1 + 6M) as `mixture` of model.py reads them, targets (N, 3) -> losses (N), errors (N), d_outputs as
 * outputs. The forms are those of `log_density`; s and d are z1 + z2 and z1 - z2, p and q their factors / 2.
 */
void mixture_losses(long N, long M, float max_log_sigma, float max_atanh_rho, const float *outputs,
                    const float *targets, float *losses, float *errors, float *d_outputs) {
    for (long n = 0; n < N; n++, outputs += 1 + 6 * M, d_outputs += 1 + 6 * M, targets += 3) {
        const float *y = outputs + 1;
        float *log_pi = d_outputs + 1, *log_both = log_pi + M; /* used for these before the gradients stand there */
        float x1 = targets[0], x2 = targets[1], end = targets[2], logit = -outputs[0];
        float most = y[0], sum = 0, most_both = -INFINITY, sum_both = 0, mean1 = 0, mean2 = 0;
        for (long j = 1; j < M; j++)
            most = y[j] > most || y[j] != y[j] ? y[j] : most;
#pragma omp simd reduction(+ : sum)
        for (long j = 0; j < M; j++)
            sum += log_pi[j] = share_of(y[j] - most);
#pragma omp simd reduction(+ : mean1, mean2)
        for (long j = 0; j < M; j++) {
            float pi = log_pi[j] / sum;
            mean1 += pi * y[M + j], mean2 += pi * y[2 * M + j];
        }
        float log_sum = logarithm(sum) + most;
#pragma omp simd
        for (long j = 0; j < M; j++) {
            float l1 = bounded(y[3 * M + j], max_log_sigma), l2 = bounded(y[4 * M + j], max_log_sigma);
            float a = bounded(y[5 * M + j], max_atanh_rho), e = exponential(2 * a), e_small = exponential(-2 * fabsf(a));
            float z1 = (x1 - y[M + j]) * exponential(-l1), z2 = (x2 - y[2 * M + j]) * exponential(-l2);
            float s = z1 + z2, d = z1 - z2, p = (1 + 1 / e) / 4, q = (1 + e) / 4;
            float log_cosh = fabsf(a) + log_1_plus(e_small) - 0.693147181f;
            log_both[j] = y[j] - log_sum + log_cosh - 1.837877066f - l1 - l2 - (s * s * p + d * d * q) / 2;
        }
        for (long j = 0; j < M; j++)
            most_both = log_both[j] > most_both || log_both[j] != log_both[j] ? log_both[j] : most_both;
#pragma omp simd reduction(+ : sum_both)
        for (long j = 0; j < M; j++)
            sum_both += log_both[j] = share_of(log_both[j] - most_both);
        float e_pen = exponential(-fabsf(logit)), pen = (logit > 0 ? logit : 0) - logit * end + log_1_plus(e_pen);
        losses[n] = pen - logarithm(sum_both) - most_both;
        errors[n] = (mean1 - x1) * (mean1 - x1) + (mean2 - x2) * (mean2 - x2);
        d_outputs[0] = end - sigmoid(logit);
#pragma omp simd
        for (long j = 0; j < M; j++) {
            float share = log_both[j] / sum_both, raw1 = y[3 * M + j], raw2 = y[4 * M + j], raw = y[5 * M + j];
            float l1 = bounded(raw1, max_log_sigma), l2 = bounded(raw2, max_log_sigma), a = bounded(raw, max_atanh_rho);
            float e = exponential(2 * a), width1 = exponential(-l1), width2 = exponential(-l2);
            float z1 = (x1 - y[M + j]) * width1, z2 = (x2 - y[2 * M + j]) * width2;
            float s = z1 + z2, d = z1 - z2, p = (1 + 1 / e) / 4, q = (1 + e) / 4;
            float d_z1 = s * p + d * q, d_z2 = s * p - d * q, tanh_a = hyperbolic_tangent(a);
            log_pi[j] = log_pi[j] / sum - share;
            log_both[j] = -share * d_z1 * width1;
            d_outputs[1 + 2 * M + j] = -share * d_z2 * width2;
            d_outputs[1 + 3 * M + j] = raw1 == l1 ? share * (1 - z1 * d_z1) : 0;
            d_outputs[1 + 4 * M + j] = raw2 == l2 ? share * (1 - z2 * d_z2) : 0;
            d_outputs[1 + 5 * M + j] = raw == a ? share * ((d * d * e - s * s / e) / 4 - tanh_a) : 0;
        }
    }
}
