/* What a layer of LSTM does between its products, at one point of B lines, in one pass over the memory.
 *
 * `forward` and `backward` of cells.py are the same in PyTorch; cells.py has this file compiled.
 * All arrays but d_h are contiguous. Gates stand in the order output, input, forget, candidate. There is no branch in
 * the loops, so that compilers make vectors of them.
 */

#include <stdint.h>

typedef uint16_t bfloat16; /* the upper half of a float */

typedef union {
    float number;
    uint32_t bits;
} word;

static inline float widen(bfloat16 upper) {
    word w = {.bits = (uint32_t)upper << 16};
    return w.number;
}

static inline bfloat16 narrow(float number) { /* to the nearest; of two as near, to the even one */
    word w = {.number = number};
    return (w.bits + 0x7fff + (w.bits >> 16 & 1)) >> 16;
}

/* e^x, to some 1E-7 of it, for x from -87 to 87, and those values beyond. The C library's takes one x at a time. */
static inline float exponential(float x) {
    x = x > 87.0f ? 87.0f : x;
    x = x < -87.0f ? -87.0f : x; /* not a number stays so */
    float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; /* x / ln 2 as a whole number: e^x = 2^n e^r */
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;     /* ln 2 in two parts */
    float e_r = 1 + r * (1 + r * (1 / 2.0f + r * (1 / 6.0f + r * (1 / 24.0f + r * (1 / 120.0f + r * (1 / 720.0f))))));
    word power = {.bits = (uint32_t)((int32_t)n + 127) << 23}; /* 2^n */
    return e_r * power.number;
}

static inline float sigmoid(float x) { return 1 / (1 + exponential(-x)); }

static inline float hyperbolic_tangent(float x) { return 2 / (1 + exponential(-2 * x)) - 1; }

/* z (B, 4H), before (B, H) -> gates (B, 4, H), cell (B, H), h (B, H). */
void cells_forward(long B, long H, const bfloat16 *z, const float *before, float *gates, float *cell, float *h) {
    for (long b = 0; b < B; b++, z += 4 * H, before += H, gates += 4 * H, cell += H, h += H) {
#pragma omp simd
        for (long n = 0; n < H; n++) {
            float o = sigmoid(widen(z[n])), i = sigmoid(widen(z[H + n])); /* (eq. 7, 8, 10) */
            float f = sigmoid(widen(z[2 * H + n])), g = hyperbolic_tangent(widen(z[3 * H + n]));
            float c = f * before[n] + i * g; /* (eq. 9) */
            gates[n] = o, gates[H + n] = i, gates[2 * H + n] = f, gates[3 * H + n] = g;
            cell[n] = c;
            h[n] = o * hyperbolic_tangent(c); /* (eq. 11) */
        }
    }
}

/* d_h (B, H), whose rows are `row` apart, and d_cell (B, H) -> d_z (B, 4H), and d_cell of before. */
void cells_backward(long B, long H, long row, const float *before, const float *gates, const float *cell,
                    const float *d_h, float *d_cell, bfloat16 *d_z) {
    for (long b = 0; b < B; b++, before += H, gates += 4 * H, cell += H, d_h += row, d_cell += H, d_z += 4 * H) {
#pragma omp simd
        for (long n = 0; n < H; n++) {
            float o = gates[n], i = gates[H + n], f = gates[2 * H + n], g = gates[3 * H + n];
            float c = hyperbolic_tangent(cell[n]), d_c = d_cell[n] + d_h[n] * o * (1 - c * c); /* (eq. 11) */
            d_z[n] = narrow(d_h[n] * c * o * (1 - o));
            d_z[H + n] = narrow(d_c * g * i * (1 - i)); /* (eq. 9) */
            d_z[2 * H + n] = narrow(d_c * before[n] * f * (1 - f));
            d_z[3 * H + n] = narrow(d_c * i * (1 - g * g));
            d_cell[n] = d_c * f;
        }
    }
}
