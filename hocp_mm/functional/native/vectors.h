// Vectors of the machine at hand, and the few helpers that everything here uses.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#ifdef _OPENMP
#include <omp.h>
#endif

namespace hocp {

#if defined(__AVX512F__)
constexpr int LANES = 16, MICRO_ROWS = 14;
#elif defined(__AVX__)
constexpr int LANES = 8, MICRO_ROWS = 6;
#else
constexpr int LANES = 4, MICRO_ROWS = 6;
#endif
constexpr int PANEL = 2 * LANES;  // MICRO_ROWS x 2 accumulators, two columns of B and one of A fill the registers

typedef float Vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int64_t i64;

inline Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<Vec*>(p) = v; }
inline i64 ceil_div(i64 a, i64 b) { return (a + b - 1) / b; }
inline i64 padded(i64 channels) { return ceil_div(channels, LANES) * LANES; }

inline int max_threads() {
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return 1;
#endif
}

inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

constexpr i64 KEPT_FLOATS = i64(64) << 20;  // 256 MB

// Grows and is kept up to KEPT_FLOATS: fresh pages for every call cost up to a third of a training step.
class Scratch {
 public:
  ~Scratch() { std::free(data_); }
  float* get(size_t count) {
    if (count > size_) {
      std::free(data_);
      size_ = 0;  // in case there is no memory
      data_ = static_cast<float*>(std::aligned_alloc(64, ceil_div(count * sizeof(float), 4096) * 4096));
      if (data_) size_ = count;
    }
    return data_;
  }
  void release_above(i64 count) {
    if (i64(size_) <= count) return;
    std::free(data_);
    data_ = nullptr, size_ = 0;
  }

 private:
  float* data_ = nullptr;
  size_t size_ = 0;
};

// A transposed copy of a [rows, columns] block: to[column * to_stride + row] = from[row * from_stride + column].
inline void transpose(const float* from, i64 from_stride, i64 rows, i64 columns, float* to, i64 to_stride) {
  typedef float Eight __attribute__((vector_size(32), aligned(4), may_alias));
  typedef int Index __attribute__((vector_size(32)));
  const Index low1 = {0, 8, 1, 9, 4, 12, 5, 13}, high1 = {2, 10, 3, 11, 6, 14, 7, 15};
  const Index low2 = {0, 1, 8, 9, 4, 5, 12, 13}, high2 = {2, 3, 10, 11, 6, 7, 14, 15};
  const Index low4 = {0, 1, 2, 3, 8, 9, 10, 11}, high4 = {4, 5, 6, 7, 12, 13, 14, 15};
  const i64 full_rows = rows / 8 * 8, full_columns = columns / 8 * 8;
  for (i64 i = 0; i < full_rows; i += 8)
    for (i64 j = 0; j < full_columns; j += 8) {
      Eight a[8], b[8];
      for (int k = 0; k < 8; ++k) a[k] = *reinterpret_cast<const Eight*>(from + (i + k) * from_stride + j);
      for (int k = 0; k < 8; k += 2) {
        b[k] = __builtin_shuffle(a[k], a[k + 1], low1);
        b[k + 1] = __builtin_shuffle(a[k], a[k + 1], high1);
      }
      for (int k = 0; k < 8; k += 4)
        for (int m = 0; m < 2; ++m) {
          a[k + 2 * m] = __builtin_shuffle(b[k + m], b[k + m + 2], low2);
          a[k + 2 * m + 1] = __builtin_shuffle(b[k + m], b[k + m + 2], high2);
        }
      for (int k = 0; k < 4; ++k) {
        *reinterpret_cast<Eight*>(to + (j + k) * to_stride + i) = __builtin_shuffle(a[k], a[k + 4], low4);
        *reinterpret_cast<Eight*>(to + (j + k + 4) * to_stride + i) = __builtin_shuffle(a[k], a[k + 4], high4);
      }
    }
  for (i64 j = 0; j < columns; ++j)
    for (i64 i = j < full_columns ? full_rows : 0; i < rows; ++i) to[j * to_stride + i] = from[i * from_stride + j];
}

}  // namespace hocp
