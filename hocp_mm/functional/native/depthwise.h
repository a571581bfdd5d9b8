// Depthwise steps on [positions, R], components innermost, R a multiple of LANES. A tap that would read outside the data
// is left out, so nothing is ever padded in memory.
#pragma once

#include "vectors.h"

namespace hocp {

// One convolved mode: sizes of its input and output, taps, stride, padding in front, dilation.
struct Axis {
  i64 in, out, taps, stride, before, dilation;
  i64 source(i64 at, i64 tap) const { return at * stride - before + tap * dilation; }
  // Inputs that `outputs` neighbouring outputs need.
  i64 extent(i64 outputs) const { return std::min(in, (outputs - 1) * stride + (taps - 1) * dilation + 1); }
  // The output that reads input `at` with `tap`, or -1.
  i64 target(i64 at, i64 tap) const {
    const i64 scaled = at + before - tap * dilation;
    return scaled < 0 || scaled % stride || scaled / stride >= out ? -1 : scaled / stride;
  }
};

struct Span {
  i64 begin, end;
};

// The taps with which output `at` stays inside the data.
inline Span taps_inside(const Axis& axis, i64 at) {
  const i64 first = axis.source(at, 0);
  const i64 begin = first < 0 ? std::min(axis.taps, ceil_div(-first, axis.dilation)) : 0;
  const i64 end = first >= axis.in ? 0 : std::min(axis.taps, (axis.in - 1 - first) / axis.dilation + 1);
  return {begin, std::max(begin, end)};
}

// One output row of a kernel 3 wide with stride 1: each column of z is loaded once and its products are carried along.
template <int ROWS>
void row_of_three(const float* const* z, const float* const* taps, float* u, const Axis& w, i64 r) {
  for (i64 at = 0; at < r; at += LANES) {
    Vec tap[ROWS][3];
    for (int i = 0; i < ROWS; ++i)
      for (int k = 0; k < 3; ++k) tap[i][k] = load(taps[i] + k * r + at);
    Vec second{}, third{};  // outputs begun one and two columns ago
    for (i64 j = -w.before; j < w.out + 2 - w.before; ++j) {
      Vec left = third, middle = second, right{};
      if (j >= 0 && j < w.in) {
#pragma GCC unroll 3
        for (int i = 0; i < ROWS; ++i) {
          const Vec value = load(z[i] + j * r + at);
          left += value * tap[i][2];
          middle += value * tap[i][1];
          right += value * tap[i][0];
        }
      }
      const i64 to = j + w.before - 2;
      if (to >= 0) store(u + to * r + at, left);
      third = middle;
      second = right;
    }
  }
}

// Output rows [from, to) of one frame; `z` begins at input row `z_from`; taps [kh, kw, R]; u is [to - from, out, R].
inline void depthwise_rows(const Axis& h, const Axis& w, i64 r, const float* z, i64 z_from, const float* taps, float* u,
                           i64 from, i64 to) {
  const bool three = w.taps == 3 && w.stride == 1 && w.dilation == 1;
  for (i64 row = from; row < to; ++row, u += w.out * r) {
    const Span kh = taps_inside(h, row);
    const i64 rows = kh.end - kh.begin;
    const auto line = [&](i64 tap) { return z + (h.source(row, tap) - z_from) * w.in * r; };
    if (three && rows >= 1 && rows <= 3) {
      const float *zs[3], *ts[3];
      for (i64 i = 0; i < rows; ++i) zs[i] = line(kh.begin + i), ts[i] = taps + (kh.begin + i) * 3 * r;
      if (rows == 3) row_of_three<3>(zs, ts, u, w, r);
      if (rows == 2) row_of_three<2>(zs, ts, u, w, r);
      if (rows == 1) row_of_three<1>(zs, ts, u, w, r);
      continue;
    }
    for (i64 column = 0; column < w.out; ++column) {
      const Span kw = taps_inside(w, column);
      for (i64 at = 0; at < r; at += LANES) {
        Vec sum{};
        for (i64 i = kh.begin; i < kh.end; ++i) {
          const float* source = line(i) + w.source(column, 0) * r + at;
          for (i64 k = kw.begin; k < kw.end; ++k)
            sum += load(source + k * w.dilation * r) * load(taps + (i * w.taps + k) * r + at);
        }
        store(u + column * r + at, sum);
      }
    }
  }
}

// The transposed step: input rows [from, to) of the gradient of z, from the whole frame of the gradient of u.
inline void depthwise_rows_transposed(const Axis& h, const Axis& w, i64 r, const float* gu, const float* taps, float* gz,
                                      i64 from, i64 to) {
  for (i64 row = from; row < to; ++row, gz += w.in * r)
    for (i64 column = 0; column < w.in; ++column)
      for (i64 at = 0; at < r; at += LANES) {
        Vec sum{};
        for (i64 i = 0; i < h.taps; ++i) {
          const i64 line = h.target(row, i);
          if (line < 0) continue;
          for (i64 k = 0; k < w.taps; ++k) {
            const i64 source = w.target(column, k);
            if (source >= 0) sum += load(gu + (line * w.out + source) * r + at) * load(taps + (i * w.taps + k) * r + at);
          }
        }
        store(gz + column * r + at, sum);
      }
}

// g_taps[kh, kw, R] += sum over output rows [from, to) of one frame of gu times the z it met.
inline void taps_gradient(const Axis& h, const Axis& w, i64 r, const float* z, const float* gu, float* g_taps, i64 from,
                          i64 to) {
  for (i64 row = from; row < to; ++row) {
    const Span kh = taps_inside(h, row);
    const float* grad = gu + row * w.out * r;
    for (i64 i = kh.begin; i < kh.end; ++i) {
      const float* line = z + h.source(row, i) * w.in * r;
      for (i64 k = 0; k < w.taps; ++k) {
        // Outputs whose tap k stays inside the row.
        const i64 shift = w.before - k * w.dilation;
        const i64 begin = shift > 0 ? ceil_div(shift, w.stride) : 0;
        const i64 end = w.in - 1 + shift < 0 ? 0 : std::min(w.out, (w.in - 1 + shift) / w.stride + 1);
        float* to_tap = g_taps + (i * w.taps + k) * r;
        for (i64 at = 0; at < r; at += LANES) {
          Vec even = load(to_tap + at), odd{};  // two chains hide the latency of the sum
          i64 j = begin;
          for (; j + 1 < end; j += 2) {
            even += load(grad + j * r + at) * load(line + w.source(j, k) * r + at);
            odd += load(grad + (j + 1) * r + at) * load(line + w.source(j + 1, k) * r + at);
          }
          if (j < end) even += load(grad + j * r + at) * load(line + w.source(j, k) * r + at);
          store(to_tap + at, even + odd);
        }
      }
    }
  }
}

template <int COUNT>
void weighted_sum_of(const float* const* frames, const float* const* taps, i64 points, i64 r, float* y) {
  for (i64 point = 0; point < points; ++point)
    for (i64 at = 0; at < r; at += LANES) {
      Vec sum{};
#pragma GCC unroll 4
      for (int k = 0; k < COUNT; ++k) sum += load(frames[k] + point * r + at) * load(taps[k] + at);
      store(y + point * r + at, sum);
    }
}

// y[points, R] = sum_k frames[k] * taps[k]
inline void weighted_sum(const float* const* frames, const float* const* taps, i64 count, i64 points, i64 r, float* y) {
  if (count == 3) return weighted_sum_of<3>(frames, taps, points, r, y);
  if (count == 2) return weighted_sum_of<2>(frames, taps, points, r, y);
  for (i64 point = 0; point < points; ++point)
    for (i64 at = 0; at < r; at += LANES) {
      Vec sum{};
      for (i64 k = 0; k < count; ++k) sum += load(frames[k] + point * r + at) * load(taps[k] + at);
      store(y + point * r + at, sum);
    }
}

// sum[R] += sum over points of a * b
inline void dot_points(const float* a, const float* b, i64 points, i64 r, float* sum) {
  for (i64 at = 0; at < r; at += LANES) {
    Vec total = load(sum + at);
    for (i64 point = 0; point < points; ++point) total += load(a + point * r + at) * load(b + point * r + at);
    store(sum + at, total);
  }
}

}  // namespace hocp
