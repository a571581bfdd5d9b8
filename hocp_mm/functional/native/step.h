// The frames that come next in some streams: as forward.h, but u of the frames before lies where the caller kept it, and u
// of the new ones goes to the caller, who keeps it for the next call. Weights come packed: for a single frame, packing
// them would take longer than using them.
#pragma once

#include "forward.h"

namespace hocp {

// `past` holds, for each sample, one pointer to u [h, w, r] for each of the (taps - 1) * dilation frames before the first;
// `fresh` is [samples, frames, h, w, r].
class StepUnit {
 public:
  StepUnit(const Geometry& g, const Packed& k, const Tensor<const float>& x, const float* const* past, float* fresh,
           const Tensor<float>& out, i64 rows)
      : g_(g), k_(k), x_(x), past_(past), fresh_(fresh), out_(out), length_((g.t.taps - 1) * g.t.dilation),
        z_size_(g.h.extent(rows) * g.w.in * g.r), u_size_(rows * g.w.out * g.r),
        tile_size_(rows * g.w.out * padded(g.out_channels)) {
    sources_.reserve(g.t.taps), taps_.reserve(g.t.taps);
  }

  size_t floats() const { return z_size_ + u_size_ + tile_size_; }

  void run(i64 sample, i64 row, i64 rows, float* scratch) {
    float *z = scratch, *y = z + z_size_, *tile = y + u_size_;
    const i64 first = std::max<i64>(0, g_.h.source(row, 0));
    const i64 last = std::max(first, std::min(g_.h.in, g_.h.source(row + rows - 1, g_.h.taps - 1) + 1));
    for (i64 t = 0; t < g_.t.in; ++t) {
      if (last > first)
        tensor_to_buffer(x_, sample, t, first, last - first, g_.w.in, g_.in_channels, k_.in, z, g_.r);
      depthwise_rows(g_.h, g_.w, g_.r, z, first, k_.taps_hw, fresh(sample, t, row), row, row + rows);
      sources_.clear(), taps_.clear();
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 frame = t - length_ + tap * g_.t.dilation, place = row * g_.w.out * g_.r;
        sources_.push_back(frame < 0 ? past_[sample * length_ + length_ + frame] + place : fresh(sample, frame, row));
        taps_.push_back(k_.taps_t + tap * g_.r);
      }
      weighted_sum(sources_.data(), taps_.data(), sources_.size(), rows * g_.w.out, g_.r, y);
      buffer_to_tensor(y, g_.r, k_.out, k_.bias, out_, sample, t, row, rows, g_.w.out, g_.out_channels, tile);
    }
  }

 private:
  float* fresh(i64 sample, i64 frame, i64 row) const {
    return fresh_ + ((sample * g_.t.in + frame) * g_.h.out + row) * g_.w.out * g_.r;
  }

  const Geometry& g_;
  const Packed& k_;
  const Tensor<const float>& x_;
  const float* const* past_;
  float* fresh_;
  const Tensor<float>& out_;
  const i64 length_, z_size_, u_size_, tile_size_;
  std::vector<const float*> sources_, taps_;
};

inline bool step(const Geometry& g, const Packed& k, const Tensor<const float>& x, const float* const* past, float* fresh,
                 const Tensor<float>& out) {
  const i64 rows = choose_tiling(g).rows, strips = ceil_div(g.h.out, rows);
  bool failed = false;
#pragma omp parallel reduction(|| : failed)
  {
    static thread_local Scratch kept;
    std::optional<StepUnit> unit;
    float* scratch = nullptr;
    try {
      unit.emplace(g, k, x, past, fresh, out, rows);
      scratch = kept.get(unit->floats());
    } catch (const std::bad_alloc&) {
    }
    failed = !scratch;
#pragma omp for schedule(dynamic)
    for (i64 i = 0; i < g.samples * strips; ++i) {
      if (!scratch) continue;
      const i64 row = i % strips * rows;
      unit->run(i / strips, row, std::min(rows, g.h.out - row), scratch);
    }
    kept.release_above(KEPT_FLOATS);
  }
  return !failed;
}

}  // namespace hocp
