// Motion components of folded clips with channels innermost, in place: the sum of hocp_mm/functional/motion.py.
//
//   y[t]  +=  out^T | sum_k s[k] in^T (y[t + k + 1 - before] - y[t + k - before]) |,      frames beyond the ends repeated
//
// A work unit is a run of pixels of one clip over all of its frames. Their components [T, pixels, Q] stay in the cache of
// its core, so that y comes by once for reading and once for adding.
#pragma once

#include "product.h"

namespace hocp {

constexpr int NARROW = 8, NARROW_ROWS = 12;

struct Motion {
  i64 clips, frames, pixels, channels, components, taps, before;
  bool relu;
  i64 wide() const { return padded(components); }
  bool narrow() const { return LANES > NARROW && components <= NARROW; }
};

// |v| or max(v, 0) without a branch; what is no number stays none.
inline Vec rectified(Vec v, bool relu) {
  const Vec negative = -v;
  return relu ? (v < Vec{} ? Vec{} : v) : (v > negative ? v : negative);
}

// Make weights of differences between neighbours out of `taps` [size, wide]: running sums of mean - tap; the last is 0.
inline void weigh_steps(i64 size, i64 wide, float* taps) {
  for (i64 q = 0; q < wide; q += LANES) {
    Vec sum{}, weight{};
    for (i64 k = 0; k < size; ++k) sum += load(taps + k * wide + q);
    for (i64 k = 0; k < size; ++k) store(taps + k * wide + q, weight += sum / float(size) - load(taps + k * wide + q));
  }
}

typedef float NarrowVec __attribute__((vector_size(4 * NARROW), aligned(4), may_alias));

template <int ROWS>
void project_narrow(i64 channels, const float* y, const float* in, float* z) {
  NarrowVec sum[ROWS] = {};
  for (i64 c = 0; c < channels; ++c) {
    const NarrowVec row = *reinterpret_cast<const NarrowVec*>(in + c * NARROW);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) sum[i] += row * y[i * channels + c];
  }
  for (int i = 0; i < ROWS; ++i) *reinterpret_cast<NarrowVec*>(z + i * LANES) = sum[i];
}

// z [count, wide] = y [count, channels] in. So few components that they fill half of a vector at most are worth their own
// loop: with many channels this product is most of the work.
inline void project(const Motion& m, i64 count, const float* y, const float* in, float* z) {
  if (!m.narrow()) return multiply(count, m.channels, m.wide(), {y, m.channels, false}, in, z, m.wide());
  i64 i = 0;
  for (; i + NARROW_ROWS <= count; i += NARROW_ROWS)
    project_narrow<NARROW_ROWS>(m.channels, y + i * m.channels, in, z + i * LANES);
  if (i < count && count > NARROW_ROWS)  // some rows once more cost less than the rest one by one
    project_narrow<NARROW_ROWS>(m.channels, y + (count - NARROW_ROWS) * m.channels, in, z + (count - NARROW_ROWS) * LANES);
  else
    for (; i < count; ++i) project_narrow<1>(m.channels, y + i * m.channels, in, z + i * LANES);
}

constexpr i64 BLOCK = 4;  // pixels whose sums are made together; z has rows for whole blocks
inline i64 rows_of(i64 count) { return ceil_div(count, BLOCK) * BLOCK; }

// in: the input factor, packed, or [channels, NARROW]; weights [size - 1, wide]; out [components, channels], behind which
// PANEL floats may be read; z: room for frames + 1 times `rows_of(count) * wide` floats.
inline void motion_unit(const Motion& m, float* y, i64 count, const float* in, const float* weights, const float* out,
                        float* z) {
  const i64 wide = m.wide(), size = rows_of(count) * wide, step = m.pixels * m.channels;
  float* moved = z + m.frames * size;
  for (i64 t = 0; t < m.frames; ++t) project(m, count, y + t * step, in, z + t * size);
  for (i64 t = 0; t < m.frames; ++t) {
    for (i64 q = 0; q < wide; q += LANES)
      for (i64 p = 0; p < size; p += BLOCK * wide) {
        Vec sum[BLOCK] = {};
        for (i64 k = 0; k + 1 < m.taps; ++k) {
          const i64 source = t + k - m.before;
          if (source < 0 || source + 1 >= m.frames) continue;  // a repeated end
          const float* seen = z + source * size + p + q;
          const Vec weight = load(weights + k * wide + q);
          for (int i = 0; i < BLOCK; ++i) sum[i] += weight * (load(seen + size + i * wide) - load(seen + i * wide));
        }
        for (int i = 0; i < BLOCK; ++i) store(moved + p + i * wide + q, rectified(sum[i], m.relu));
      }
    accumulate(count, m.components, m.channels, {moved, wide, false}, out, y + t * step);
  }
}

inline bool motion(const Motion& m, float* y, const float* in, const float* weights, const float* out) {
  const i64 wide = m.wide(), room = 64 * 1024 / 4;  // floats that stay close
  const i64 wanted = std::max<i64>(MICRO_ROWS, room / ((m.frames + 1) * wide));
  const i64 units = std::max(ceil_div(m.pixels, wanted), std::min<i64>(m.pixels, ceil_div(max_threads(), m.clips)));
  const i64 count = ceil_div(m.pixels, units), floats = (m.frames + 1) * rows_of(count) * wide;
  bool failed = false;
#pragma omp parallel reduction(|| : failed)
  {
    static thread_local Scratch kept;
    float* scratch = kept.get(floats);
    failed = !scratch;
    if (scratch && m.narrow()) std::fill(scratch, scratch + floats, 0.f);  // half of each row stays so
#pragma omp for schedule(static)
    for (i64 i = 0; i < m.clips * units; ++i) {
      const i64 first = i % units * count, rest = std::min(count, m.pixels - first);
      if (!scratch || rest <= 0) continue;
      motion_unit(m, y + (i / units * m.frames * m.pixels + first) * m.channels, rest, in, weights, out, scratch);
    }
  }
  return !failed;
}

}  // namespace hocp
