// The fused forward pass: one pass over a tile instead of four passes over whole activations.
//
//   x [C] --1x1--> z [R] --depthwise h, w--> u [R] --depthwise t--> y [R] --1x1--> out [O]
//
// A work unit is a strip of output rows of one sample over a range of frames. Per frame, the rows of z that the strip
// needs are one small matrix product; u goes into a ring of as many frames as the temporal kernel spans, and y feeds the
// second product. Everything but x and out stays in the core's own cache; rows (and frames) at the edge of a unit are
// computed by both neighbours.
#pragma once

#include <unistd.h>

#include <cmath>
#include <vector>

#include "problem.h"

namespace hocp {

struct Tiling {
  i64 rows, frames;  // of the output, per work unit
};

inline i64 cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  if (found > 0) return found;
#endif
  return 512 * 1024;
}

inline i64 ring_frames(const Geometry& g) { return (g.t.taps - 1) * g.t.dilation + 1; }

// Smallest modelled time of the slowest thread: multiply-adds per position, 16 per step for the depthwise part, three
// times that where a unit leaves the core's cache.
inline Tiling choose_tiling(const Geometry& g) {
  static const i64 cache = cache_bytes();
  const i64 workers = max_threads();
  Tiling best{g.h.out, g.t.out};
  double lowest = INFINITY;
  for (i64 strips = 1; strips <= g.h.out; ++strips) {
    const i64 rows = ceil_div(g.h.out, strips);
    if (strips > 1 && ceil_div(g.h.out, strips - 1) == rows) continue;
    const i64 points_in = g.h.extent(rows) * g.w.in, points = rows * g.w.out;
    const double bytes = 4. * g.r * (points_in + (ring_frames(g) + 1) * points);
    const double depthwise = bytes > cache ? 48 : 16;
    for (i64 cuts = 1; cuts <= std::min<i64>(g.t.out, 2 * workers); ++cuts) {
      const i64 frames = ceil_div(g.t.out, cuts);
      const double unit = double(g.t.extent(frames)) * points_in * (g.in_channels + depthwise) +
                          double(frames) * points * (g.out_channels + depthwise);
      const i64 units = g.samples * ceil_div(g.h.out, rows) * ceil_div(g.t.out, frames);
      const double cost = unit * ceil_div(units, workers);
      if (cost < lowest * 0.999) lowest = cost, best = {rows, frames};
    }
  }
  return best;
}

class Unit {
 public:
  Unit(const Geometry& g, const Packed& k, i64 rows)
      : g_(g), k_(k), ring_(ring_frames(g)), held_(ring_, -1), sources_(g.t.taps), taps_(g.t.taps),
        z_size_(g.h.extent(rows) * g.w.in * g.r), frame_size_(rows * g.w.out * g.r),
        tile_size_(rows * g.w.out * padded(g.out_channels)) {}

  size_t floats() const { return z_size_ + (ring_ + 1) * frame_size_ + tile_size_; }

  void run(const Tensor<const float>& x, const Tensor<float>& out, i64 sample, i64 row, i64 rows, i64 frame, i64 frames,
           float* scratch) {
    float *u = scratch + z_size_, *y = u + ring_ * frame_size_, *tile = y + frame_size_;
    const i64 points = rows * g_.w.out;
    std::fill(held_.begin(), held_.end(), -1);
    for (i64 t = frame; t < frame + frames; ++t) {
      i64 count = 0;
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 source = g_.t.source(t, tap);
        if (source < 0 || source >= g_.t.in) continue;
        float* held = u + source % ring_ * frame_size_;
        if (held_[source % ring_] != source) spatial(x, sample, source, row, rows, scratch, held);
        held_[source % ring_] = source;
        sources_[count] = held;
        taps_[count++] = k_.taps_t ? k_.taps_t + tap * g_.r : nullptr;
      }
      const bool as_is = !k_.taps_t && count == 1;
      if (!as_is) weighted_sum(sources_.data(), taps_.data(), k_.taps_t ? count : 0, points, g_.r, y);
      buffer_to_tensor(as_is ? sources_[0] : y, g_.r, k_.out, k_.bias, out, sample, t, row, rows, g_.w.out,
                       g_.out_channels, tile);
    }
  }

 private:
  void spatial(const Tensor<const float>& x, i64 sample, i64 frame, i64 row, i64 rows, float* z, float* u) const {
    const i64 first = std::max<i64>(0, g_.h.source(row, 0));
    const i64 last = std::min(g_.h.in, g_.h.source(row + rows - 1, g_.h.taps - 1) + 1);
    if (last > first)
      tensor_to_buffer(x, sample, frame, first, last - first, g_.w.in, g_.in_channels, k_.in, z, g_.r);
    depthwise_rows(g_.h, g_.w, g_.r, z, first, k_.taps_hw, u, row, row + rows);
  }

  const Geometry& g_;
  const Packed& k_;
  i64 ring_;
  std::vector<i64> held_;
  std::vector<const float*> sources_, taps_;
  i64 z_size_, frame_size_, tile_size_;
};

inline bool forward(const Geometry& g, const Packed& k, const Tensor<const float>& x, const Tensor<float>& out) {
  const Tiling tiling = choose_tiling(g);
  const i64 strips = ceil_div(g.h.out, tiling.rows), cuts = ceil_div(g.t.out, tiling.frames);
  bool failed = false;
#pragma omp parallel reduction(|| : failed)
  {
    static thread_local Scratch kept;
    Unit unit(g, k, tiling.rows);
    float* scratch = kept.get(unit.floats());
    failed = !scratch;
#pragma omp for schedule(dynamic)
    for (i64 i = 0; i < g.samples * strips * cuts; ++i) {
      if (!scratch) continue;
      const i64 row = i / cuts % strips * tiling.rows, frame = i % cuts * tiling.frames;
      unit.run(x, out, i / (strips * cuts), row, std::min(tiling.rows, g.h.out - row), frame,
               std::min(tiling.frames, g.t.out - frame), scratch);
    }
  }
  return !failed;
}

}  // namespace hocp
