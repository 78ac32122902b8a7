/* What the C files share: functions without a branch, so that compilers make vectors of loops over them. */

#include <stdint.h>

typedef union {
    float number;
    uint32_t bits;
} word;

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
