// Matrix times vector with weights of 8 bits, for page/engine.js, in WebAssembly with its 128-bit instructions.
// `python page/build.py --products` compiles it into products.js.

#include <stdint.h>
#include <wasm_simd128.h>

#define MOST_COLUMNS 2048
#define LARGEST 2147483647.0f  // of a sum

static int16_t numbers[MOST_COLUMNS];  // the vector as whole numbers

// Round the vector x of n numbers, a multiple of 16, to whole numbers of at most `most`. Returns what one of them is worth.
static float quantise(int n, const float *x, float most) {
  v128_t largest = wasm_f32x4_splat(1e-20f);
  for (int i = 0; i < n; i += 4) largest = wasm_f32x4_max(largest, wasm_f32x4_abs(wasm_v128_load(x + i)));
  float found = wasm_f32x4_extract_lane(largest, 0);
  for (int i = 1; i < 4; i++) {
    float other = i == 1   ? wasm_f32x4_extract_lane(largest, 1)
                  : i == 2 ? wasm_f32x4_extract_lane(largest, 2)
                           : wasm_f32x4_extract_lane(largest, 3);
    if (other > found) found = other;
  }
  v128_t factor = wasm_f32x4_splat(most / found);
  for (int i = 0; i < n; i += 8) {
    v128_t low = wasm_f32x4_nearest(wasm_f32x4_mul(wasm_v128_load(x + i), factor));
    v128_t high = wasm_f32x4_nearest(wasm_f32x4_mul(wasm_v128_load(x + i + 4), factor));
    low = wasm_i32x4_trunc_sat_f32x4(low);
    wasm_v128_store(numbers + i, wasm_i16x8_narrow_i32x4(low, wasm_i32x4_trunc_sat_f32x4(high)));
  }
  return found / most;
}

static v128_t add_products(v128_t sum, const int8_t *weights, v128_t low, v128_t high) {
  v128_t w = wasm_v128_load(weights);
  sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(w), low));
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(w), high));
}

static float total(v128_t sum) {
  return (float)(wasm_i32x4_extract_lane(sum, 0) + wasm_i32x4_extract_lane(sum, 1) + wasm_i32x4_extract_lane(sum, 2) +
                 wasm_i32x4_extract_lane(sum, 3));
}

// y += scales * (weights x): weights (rows, columns), columns a multiple of 16, rows one of 4. No sum can overflow.
__attribute__((export_name("multiply"))) void multiply(int rows, int columns, const int8_t *weights,
                                                        const float *scales, const float *x, float *y) {
  float most = LARGEST / 127.0f / (float)columns;
  float unit = quantise(columns, x, most > 32767.0f ? 32767.0f : most);
  for (int row = 0; row < rows; row += 4, weights += 4 * columns) {
    v128_t a = wasm_i32x4_splat(0), b = a, c = a, d = a;
    for (int i = 0; i < columns; i += 16) {
      v128_t low = wasm_v128_load(numbers + i), high = wasm_v128_load(numbers + i + 8);
      a = add_products(a, weights + i, low, high);
      b = add_products(b, weights + columns + i, low, high);
      c = add_products(c, weights + 2 * columns + i, low, high);
      d = add_products(d, weights + 3 * columns + i, low, high);
    }
    y[row] += scales[row] * unit * total(a);
    y[row + 1] += scales[row + 1] * unit * total(b);
    y[row + 2] += scales[row + 2] * unit * total(c);
    y[row + 3] += scales[row + 3] * unit * total(d);
  }
}
