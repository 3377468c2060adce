// Quantised weights in GGUF's blocks -> numbers to multiply with. The same operations in the same order as the gguf
// package does them in float32, so that the values are the same to the last bit: products are rounded before they are
// added to (no contraction), on every processor.
#pragma once
#include "simd.h"

#if defined(__clang__)
#define AS_WRITTEN
#define NO_CONTRACTION _Pragma("clang fp contract(off)")
#else
#define AS_WRITTEN __attribute__((optimize("fp-contract=off")))
#define NO_CONTRACTION
#endif

typedef uint8_t u8;

// ggml's numbers of the types
enum Quant { Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14 };

static inline float half_at(const u8 *p) {
  _Float16 value;
  memcpy(&value, p, 2);
  return (float)value;
}

// The scale and the minimum of 32 numbers: twelve bytes hold eight of each in six bits.
static inline void scale_and_min(const u8 *s, int i, int *scale, int *min) {
  if (i < 4) {
    *scale = s[i] & 63;
    *min = s[i + 4] & 63;
  } else {
    *scale = (s[i + 4] & 15) | (s[i - 4] >> 6 << 4);
    *min = (s[i + 4] >> 4) | (s[i] >> 6 << 4);
  }
}

struct Small {
  static constexpr int COUNT = 32;
};

template <Quant kind> struct Blocks;

template <> struct Blocks<Q8_0> : Small {
  static constexpr int BYTES = 34;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
  }
};

template <> struct Blocks<Q4_0> : Small {
  static constexpr int BYTES = 18;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
      y[i] = d * (float)((b[2 + i] & 15) - 8);
      y[16 + i] = d * (float)((b[2 + i] >> 4) - 8);
    }
  }
};

template <> struct Blocks<Q4_1> : Small {
  static constexpr int BYTES = 20;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
      y[i] = d * (float)(b[4 + i] & 15) + m;
      y[16 + i] = d * (float)(b[4 + i] >> 4) + m;
    }
  }
};

template <> struct Blocks<Q5_0> : Small {
  static constexpr int BYTES = 22;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b);
    uint32_t high;
    memcpy(&high, b + 2, 4);
    for (int i = 0; i < 16; i++) {
      y[i] = d * (float)((int)((b[6 + i] & 15) | (high >> i & 1) << 4) - 16);
      y[16 + i] = d * (float)((int)((b[6 + i] >> 4) | (high >> (i + 16) & 1) << 4) - 16);
    }
  }
};

template <> struct Blocks<Q5_1> : Small {
  static constexpr int BYTES = 24;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b), m = half_at(b + 2);
    uint32_t high;
    memcpy(&high, b + 4, 4);
    for (int i = 0; i < 16; i++) {
      y[i] = d * (float)((b[8 + i] & 15) | (high >> i & 1) << 4) + m;
      y[16 + i] = d * (float)((b[8 + i] >> 4) | (high >> (i + 16) & 1) << 4) + m;
    }
  }
};

template <> struct Blocks<Q4_K> {
  static constexpr int BYTES = 144, COUNT = 256;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int part = 0; part < 8; part++) {
      int scale, min;
      scale_and_min(b + 4, part, &scale, &min);
      const float step = d * (float)scale, least = dmin * (float)min;
      const u8 *q = b + 16 + 32 * (part / 2);
      for (int i = 0; i < 32; i++) y[32 * part + i] = step * (float)(part % 2 ? q[i] >> 4 : q[i] & 15) - least;
    }
  }
};

template <> struct Blocks<Q5_K> {
  static constexpr int BYTES = 176, COUNT = 256;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b), dmin = half_at(b + 2);
    for (int part = 0; part < 8; part++) {
      int scale, min;
      scale_and_min(b + 4, part, &scale, &min);
      const float step = d * (float)scale, least = dmin * (float)min;
      const u8 *high = b + 16, *q = b + 48 + 32 * (part / 2);
      for (int i = 0; i < 32; i++) {
        const int low = part % 2 ? q[i] >> 4 : q[i] & 15;
        y[32 * part + i] = step * (float)(low | (high[i] >> part & 1) << 4) - least;
      }
    }
  }
};

template <> struct Blocks<Q6_K> {
  static constexpr int BYTES = 210, COUNT = 256;
  static AS_WRITTEN inline void read(const u8 *b, float *y) {
    NO_CONTRACTION
    const float d = half_at(b + 208);
    const int8_t *scales = (const int8_t *)(b + 192);
    for (int half = 0; half < 2; half++) {
      const u8 *low = b + 64 * half, *high = b + 128 + 32 * half;
      for (int part = 0; part < 4; part++)
        for (int i = 0; i < 32; i++) {
          const int nibble = part < 2 ? low[32 * part + i] & 15 : low[32 * (part - 2) + i] >> 4;
          const int q = (nibble | (high[i] >> (2 * part) & 3) << 4) - 32;
          const float step = d * (float)scales[8 * half + 2 * part + i / 16];
          y[128 * half + 32 * part + i] = step * (float)q;
        }
    }
  }
};

template <class T, Quant kind>
static void read_rows(const u8 *source, i64 row_bytes, const i64 *order, T *out, i64 ldo, i64 rows, i64 columns,
                      int thread, int count) {
  constexpr int COUNT = Blocks<kind>::COUNT;
  float values[COUNT];
  for (i64 r = rows * thread / count; r < rows * (thread + 1) / count; r++) {
    const u8 *block = source + row_bytes * (order ? order[r] : r);
    T *to = out + r * ldo;
    for (i64 c = 0; c < columns; c += COUNT, block += Blocks<kind>::BYTES) {
      Blocks<kind>::read(block, values);
      for (int i = 0; i < COUNT; i++) narrow(values[i], to + c + i);
    }
  }
}
