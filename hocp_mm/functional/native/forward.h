// The fused forward pass: one pass over a tile instead of four passes over whole activations.
//
//   x [C] --1x1--> z [R] --depthwise h, w--> u [R] --depthwise t--> y [R] --1x1--> out [O]
//
// A work unit is a strip of output rows of one sample over a range of frames. Its frames go in groups, usually of one;
// small frames are taken several at a time, so that the matrix products stay worth their panels of weights. Per group,
// the rows of z that the strip needs are one product per frame (or one for all), u goes into a ring of as many frames as
// the group sees in time, and y feeds the second product. Everything but x and out stays in the core's own cache; rows
// (and frames) at the edge of a unit are computed by both neighbours.
#pragma once

#include <unistd.h>

#include <cmath>
#include <new>
#include <optional>
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

constexpr i64 PRODUCT_ROWS = 96;  // of a matrix product, before its panels of weights are read again

// Input frames that `group` neighbouring output frames see.
inline i64 ring_frames(const Geometry& g, i64 group = 1) {
  return (group - 1) * g.t.stride + (g.t.taps - 1) * g.t.dilation + 1;
}

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
  Unit(const Geometry& g, const Packed& k, const Tensor<const float>& x, const Tensor<float>& out, const Tiling& tiling)
      : g_(g), k_(k), x_(x), out_(out), points_(tiling.rows * g.w.out) {
    // Frames of x and out that follow each other as one matrix of positions can share a product.
    joined_ = tiling.rows == g.h.out && x.channels_inside() && out.channels_inside() && x.rows_joined(g.w.in) &&
              out.rows_joined(g.w.out) && x.t == g.h.in * x.h && out.t == g.h.out * out.h;
    group_ = joined_ ? std::min(tiling.frames, std::max<i64>(1, PRODUCT_ROWS / points_)) : 1;
    ring_ = ring_frames(g, group_);
    held_.resize(ring_);
    missing_.reserve(ring_), sources_.reserve(g.t.taps), taps_.reserve(g.t.taps);
    z_size_ = g.h.extent(tiling.rows) * g.w.in * g.r * (joined_ ? ring_ : 1);
    frame_size_ = points_ * g.r;
  }

  size_t floats() const { return z_size_ + (ring_ + group_) * frame_size_ + points_ * padded(g_.out_channels); }

  void run(i64 sample, i64 row, i64 rows, i64 frame, i64 frames, float* scratch) {
    z_ = scratch, u_ = z_ + z_size_;
    float *y = u_ + ring_ * frame_size_, *tile = y + group_ * frame_size_;
    std::fill(held_.begin(), held_.end(), -1);
    origin_ = frame;
    for (i64 t = frame; t < frame + frames; t += group_) {
      const i64 count = std::min(group_, frame + frames - t);
      fill(sample, row, rows, t, count);
      const float* last = y;
      if (k_.taps_t) {
        for (i64 i = 0; i < count; ++i) temporal(t + i, rows, y + i * frame_size_);
      } else {
        last = slot(t);  // no temporal factor: the frames of a group lie next to each other
      }
      if (joined_) {
        multiply(count * points_, g_.r, g_.out_channels, {last, g_.r, false}, k_.out, out_.at(sample, t, row), out_.w, k_.bias);
      } else {
        buffer_to_tensor(last, g_.r, k_.out, k_.bias, out_, sample, t, row, rows, g_.w.out, g_.out_channels, tile);
      }
    }
  }

 private:
  // Where u of input frame t lies, if it is held.
  float* slot(i64 t) const {
    const i64 place = (t - origin_) % ring_;
    return u_ + (place < 0 ? place + ring_ : place) * frame_size_;
  }

  // Compute u of all frames that `count` output frames from `t` on see and that are not held yet.
  void fill(i64 sample, i64 row, i64 rows, i64 t, i64 count) {
    missing_.clear();
    for (i64 i = t; i < t + count; ++i)
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 source = g_.t.source(i, tap);
        i64& held = held_[(slot(source) - u_) / frame_size_];
        if (source < 0 || source >= g_.t.in || held == source) continue;
        held = source;
        missing_.push_back(source);
      }
    std::sort(missing_.begin(), missing_.end());
    const i64 first = std::max<i64>(0, g_.h.source(row, 0));
    const i64 last = std::max(first, std::min(g_.h.in, g_.h.source(row + rows - 1, g_.h.taps - 1) + 1));
    const i64 z_frame = (last - first) * g_.w.in * g_.r;
    for (size_t at = 0, end; at < missing_.size(); at = end) {
      for (end = at + 1; joined_ && first == 0 && last == g_.h.in && end < missing_.size(); ++end)
        if (missing_[end] != missing_[end - 1] + 1) break;
      if (last > first)
        tensor_to_buffer(x_, sample, missing_[at], first, (end - at) * (last - first), g_.w.in, g_.in_channels, k_.in, z_, g_.r);
      for (size_t i = at; i < end; ++i)
        depthwise_rows(g_.h, g_.w, g_.r, z_ + (i - at) * z_frame, first, k_.taps_hw, slot(missing_[i]), row, row + rows);
    }
  }

  void temporal(i64 t, i64 rows, float* y) {
    sources_.clear(), taps_.clear();
    for (i64 tap = 0; tap < g_.t.taps; ++tap) {
      const i64 source = g_.t.source(t, tap);
      if (source < 0 || source >= g_.t.in) continue;
      sources_.push_back(slot(source));
      taps_.push_back(k_.taps_t + tap * g_.r);
    }
    weighted_sum(sources_.data(), taps_.data(), sources_.size(), rows * g_.w.out, g_.r, y);
  }

  const Geometry& g_;
  const Packed& k_;
  const Tensor<const float>& x_;
  const Tensor<float>& out_;
  bool joined_;
  i64 points_, group_, ring_, z_size_, frame_size_, origin_ = 0;
  std::vector<i64> held_, missing_;  // input frame in each place of the ring
  std::vector<const float*> sources_, taps_;
  float *z_ = nullptr, *u_ = nullptr;
};

inline bool forward(const Geometry& g, const Packed& k, const Tensor<const float>& x, const Tensor<float>& out) {
  const Tiling tiling = choose_tiling(g);
  const i64 strips = ceil_div(g.h.out, tiling.rows), cuts = ceil_div(g.t.out, tiling.frames);
  bool failed = false;
#pragma omp parallel reduction(|| : failed)
  {
    static thread_local Scratch kept;
    // No exception may leave a parallel region: prepare here, and compute without allocating.
    std::optional<Unit> unit;
    float* scratch = nullptr;
    try {
      unit.emplace(g, k, x, out, tiling);
      scratch = kept.get(unit->floats());
    } catch (const std::bad_alloc&) {
    }
    failed = !scratch;
#pragma omp for schedule(dynamic)
    for (i64 i = 0; i < g.samples * strips * cuts; ++i) {
      if (!scratch) continue;
      const i64 row = i / cuts % strips * tiling.rows, frame = i % cuts * tiling.frames;
      unit->run(i / (strips * cuts), row, std::min(tiling.rows, g.h.out - row), frame,
                std::min(tiling.frames, g.t.out - frame), scratch);
    }
    kept.release_above(KEPT_FLOATS);
  }
  return !failed;
}

}  // namespace hocp
