// The backward pass from x, the factors and the gradient of out alone: z, u and y are computed again, a few samples at a
// time, so nothing of the rank's size is kept between forward and backward.
//
//   g_y = g W_out',  g_u = t'(g_y),  g_z = hw'(g_u),  g_x = g_z W_in'
//   g_W_out = g' y,  g_taps_t = <u, g_y>,  g_taps_hw = <z, g_u>,  g_W_in = x' g_z
//
// Parameter gradients are summed per thread in a fixed order, so the same number of threads gives the same bits.
#pragma once

#include <vector>

#include "problem.h"

namespace hocp {

// Null means not wanted. Channel factors are [channels, r], taps [taps, r], r the padded rank.
struct Gradients {
  float *w_in, *taps_t, *taps_hw, *w_out;
};

// Call fn(frame, first row, end row, thread) for all rows of `frames` frames, split so that every thread has work.
template <class Fn>
void for_rows(i64 frames, i64 rows, Fn fn) {
  const i64 strips = std::min(rows, std::max<i64>(1, ceil_div(2 * max_threads(), frames)));
  const i64 height = ceil_div(rows, strips), used = ceil_div(rows, height);
#pragma omp parallel for schedule(static)
  for (i64 i = 0; i < frames * used; ++i) {
    const i64 row = i % used * height;
    fn(i / used, row, std::min(rows, row + height), thread_number());
  }
}

// One copy of a gradient for each thread.
class Sums {
 public:
  Sums(float* target, i64 size) : target_(target), size_(size), parts_(target ? size * max_threads() : 0, 0.f) {}
  explicit operator bool() const { return target_; }
  float* of(int thread) { return parts_.data() + thread * size_; }
  void finish() {
    if (!target_) return;
    const i64 parts = parts_.size() / size_;
#pragma omp parallel for if (size_ * parts > 65536)
    for (i64 i = 0; i < size_; ++i) {
      float sum = 0;
      for (i64 part = 0; part < parts; ++part) sum += parts_[part * size_ + i];
      target_[i] = sum;
    }
  }

 private:
  float* target_;
  i64 size_;
  std::vector<float> parts_;
};

// Call fn(sample, frame, first row, end row, thread) for all rows of `samples` samples. Where frames follow each other in
// memory, all rows of a sample count as rows of its frame 0: the products get as long as they can be.
template <class T, class Fn>
void for_joined_rows(const Tensor<T>& x, i64 samples, i64 frames, i64 rows, Fn fn) {
  if (x.t == rows * x.h) {
    for_rows(samples, frames * rows, [&](i64 sample, i64 from, i64 to, int thread) { fn(sample, 0, from, to, thread); });
  } else {
    for_rows(samples * frames, rows,
             [&](i64 f, i64 from, i64 to, int thread) { fn(f / frames, f % frames, from, to, thread); });
  }
}

// sums[channels, r] += x' buffer over some rows
inline void outer_product(const Tensor<const float>& x, i64 sample, i64 frame, i64 row, i64 rows, i64 width, i64 channels,
                          const float* buffer, i64 r, float* sums) {
  const i64 step = x.rows_joined(width) ? rows : 1;
  for (i64 i = 0; i < rows; i += step) {
    const Left left = x.left(sample, frame, row + i);
    accumulate(channels, step * width, r, {left.data, left.stride, !left.rows_adjacent}, buffer + i * width * r, sums);
  }
}

class Backward {
 public:
  Backward(const Geometry& g, const Packed& k, const float* out_transposed, const float* in_transposed,
           const Gradients& wanted, bool wants_x)
      : g_(g), k_(k), out_t_(out_transposed), in_t_(in_transposed), wants_x_(wants_x),
        w_in_(wanted.w_in, g.in_channels * g.r), taps_t_(wanted.taps_t, g.t.taps * g.r),
        taps_hw_(wanted.taps_hw, g.h.taps * g.w.taps * g.r), w_out_(wanted.w_out, g.out_channels * g.r),
        points_in_(g.h.in * g.w.in), points_(g.h.out * g.w.out), flipped_(g.h.taps * g.w.taps * g.r) {
    const i64 taps = g.h.taps * g.w.taps;
    for (i64 i = 0; i < taps; ++i) std::memcpy(&flipped_[i * g.r], k.taps_hw + (taps - 1 - i) * g.r, g.r * sizeof(float));
  }

  bool run(const Tensor<const float>& x, const Tensor<const float>& grad, const Tensor<float>& gx) {
    static thread_local Scratch kept;
    const i64 z_size = g_.t.in * points_in_ * g_.r, u_size = g_.t.in * points_ * g_.r, y_size = g_.t.out * points_ * g_.r;
    // As many samples at a time as fit into a few megabytes: enough work for all threads, little memory.
    const i64 budget = i64(6) << 20, step = std::max<i64>(1, std::min(g_.samples, budget / (z_size + u_size + y_size)));
    const i64 tile = block_rows() * g_.w.in * padded(g_.in_channels), floats = step * (z_size + u_size + y_size);
    float* z = kept.get(floats + max_threads() * tile);
    if (!z) return false;
    tiles_ = z + floats, tile_ = tile;
    for (i64 first = 0; first < g_.samples; first += step)
      chunk(x, grad, gx, first, std::min(step, g_.samples - first), z, z + step * z_size, z + step * (z_size + u_size));
    for (Sums* sums : {&w_in_, &taps_t_, &taps_hw_, &w_out_}) sums->finish();
    kept.release_above(KEPT_FLOATS);
    return true;
  }

 private:
  void chunk(const Tensor<const float>& x, const Tensor<const float>& grad, const Tensor<float>& gx, i64 first,
             i64 samples, float* z, float* u, float* y) {
    const bool needs_gz = wants_x_ || w_in_, needs_gu = needs_gz || taps_hw_, needs_gy = needs_gu || taps_t_;
    const i64 frames_in = samples * g_.t.in, frames_out = samples * g_.t.out;
    if (w_out_ || taps_t_ || taps_hw_)
      for_joined_rows(x, samples, g_.t.in, g_.h.in, [&](i64 s, i64 t, i64 from, i64 to, int) {
        tensor_to_buffer(x, first + s, t, from, to - from, g_.w.in, g_.in_channels, k_.in, z + in_offset(s, t, from), g_.r);
      });
    if (w_out_ || taps_t_)
      for_rows(frames_in, g_.h.out, [&](i64 f, i64 from, i64 to, int) {
        depthwise_rows(g_.h, g_.w, g_.r, z + f * points_in_ * g_.r, 0, k_.taps_hw,
                       u + f * points_ * g_.r + from * g_.w.out * g_.r, from, to);
      });
    if (w_out_) {
      if (k_.taps_t) temporal(frames_out, u, y);
      for_joined_rows(grad, samples, g_.t.out, g_.h.out, [&](i64 s, i64 t, i64 from, i64 to, int thread) {
        outer_product(grad, first + s, t, from, to - from, g_.w.out, g_.out_channels,
                      (k_.taps_t ? y : u) + out_offset(s, t, from), g_.r, w_out_.of(thread));
      });
    }
    if (needs_gy)
      for_joined_rows(grad, samples, g_.t.out, g_.h.out, [&](i64 s, i64 t, i64 from, i64 to, int) {
        tensor_to_buffer(grad, first + s, t, from, to - from, g_.w.out, g_.out_channels, out_t_, y + out_offset(s, t, from),
                         g_.r);
      });
    float* gu = y;
    if (k_.taps_t) {
      if (taps_t_) temporal_factor(frames_out, u, y);
      if (needs_gu) temporal_transposed(frames_in, y, u);
      gu = u;
    }
    if (taps_hw_)
      for_rows(frames_in, g_.h.out, [&](i64 f, i64 from, i64 to, int thread) {
        taps_gradient(g_.h, g_.w, g_.r, z + f * points_in_ * g_.r, gu + f * points_ * g_.r, taps_hw_.of(thread), from, to);
      });
    if (!needs_gz) return;
    spatial_transposed(frames_in, gu, z);
    for_joined_rows(x, samples, g_.t.in, g_.h.in, [&](i64 s, i64 t, i64 from, i64 to, int thread) {
      input_side(x, gx, first + s, t, from, to, z + in_offset(s, t, from), thread);
    });
  }

  i64 in_offset(i64 sample, i64 t, i64 row) const {
    return ((sample * g_.t.in + t) * points_in_ + row * g_.w.in) * g_.r;
  }
  i64 out_offset(i64 sample, i64 t, i64 row) const {
    return ((sample * g_.t.out + t) * points_ + row * g_.w.out) * g_.r;
  }

  // Where frame `t` of a sample lies, given that there are `frames` of them.
  const float* frame(const float* buffer, i64 sample, i64 t, i64 frames, i64 from) const {
    return buffer + ((sample * frames + t) * points_ + from * g_.w.out) * g_.r;
  }

  void temporal(i64 frames_out, const float* u, float* y) {
    for_rows(frames_out, g_.h.out, [&](i64 f, i64 from, i64 to, int) {
      const i64 sample = f / g_.t.out, t = f % g_.t.out;
      std::vector<const float*> sources, taps;
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 source = g_.t.source(t, tap);
        if (source < 0 || source >= g_.t.in) continue;
        sources.push_back(frame(u, sample, source, g_.t.in, from));
        taps.push_back(k_.taps_t + tap * g_.r);
      }
      weighted_sum(sources.data(), taps.data(), sources.size(), (to - from) * g_.w.out, g_.r,
                   y + out_offset(sample, t, from));
    });
  }

  void temporal_factor(i64 frames_out, const float* u, const float* gy) {
    for_rows(frames_out, g_.h.out, [&](i64 f, i64 from, i64 to, int thread) {
      const i64 sample = f / g_.t.out, t = f % g_.t.out;
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 source = g_.t.source(t, tap);
        if (source < 0 || source >= g_.t.in) continue;
        dot_points(frame(u, sample, source, g_.t.in, from), frame(gy, sample, t, g_.t.out, from),
                   (to - from) * g_.w.out, g_.r, taps_t_.of(thread) + tap * g_.r);
      }
    });
  }

  void temporal_transposed(i64 frames_in, const float* gy, float* gu) {
    for_rows(frames_in, g_.h.out, [&](i64 f, i64 from, i64 to, int) {
      const i64 sample = f / g_.t.in, t = f % g_.t.in;
      std::vector<const float*> sources, taps;
      for (i64 tap = 0; tap < g_.t.taps; ++tap) {
        const i64 target = g_.t.target(t, tap);
        if (target < 0) continue;
        sources.push_back(frame(gy, sample, target, g_.t.out, from));
        taps.push_back(k_.taps_t + tap * g_.r);
      }
      weighted_sum(sources.data(), taps.data(), sources.size(), (to - from) * g_.w.out, g_.r,
                   gu + (f * points_ + from * g_.w.out) * g_.r);
    });
  }

  void spatial_transposed(i64 frames_in, const float* gu, float* gz) {
    // With stride 1 the transposed step is the step itself with the taps turned round.
    const bool unit_stride = g_.h.stride == 1 && g_.w.stride == 1;
    const Axis h{g_.h.out, g_.h.in, g_.h.taps, 1, g_.h.dilation * (g_.h.taps - 1) - g_.h.before, g_.h.dilation};
    const Axis w{g_.w.out, g_.w.in, g_.w.taps, 1, g_.w.dilation * (g_.w.taps - 1) - g_.w.before, g_.w.dilation};
    for_rows(frames_in, g_.h.in, [&](i64 f, i64 from, i64 to, int) {
      const float* source = gu + f * points_ * g_.r;
      float* block = gz + (f * points_in_ + from * g_.w.in) * g_.r;
      if (unit_stride) depthwise_rows(h, w, g_.r, source, 0, flipped_.data(), block, from, to);
      else depthwise_rows_transposed(g_.h, g_.w, g_.r, source, k_.taps_hw, block, from, to);
    });
  }

  // Rows of gz that stay close.
  i64 block_rows() const { return std::max<i64>(1, (64 * 1024 / g_.r + g_.w.in) / g_.w.in); }

  // The rows pass in blocks, so that both products read them from where the first has brought them.
  void input_side(const Tensor<const float>& x, const Tensor<float>& gx, i64 sample, i64 t, i64 from, i64 to,
                  const float* gz, int thread) {
    const i64 step = block_rows();
    for (i64 row = from; row < to; row += step) {
      const i64 rows = std::min(step, to - row);
      const float* block = gz + (row - from) * g_.w.in * g_.r;
      if (w_in_) outer_product(x, sample, t, row, rows, g_.w.in, g_.in_channels, block, g_.r, w_in_.of(thread));
      if (wants_x_)
        buffer_to_tensor(block, g_.r, in_t_, nullptr, gx, sample, t, row, rows, g_.w.in, g_.in_channels,
                         tiles_ + thread * tile_);
    }
  }

  const Geometry& g_;
  const Packed& k_;
  const float *out_t_, *in_t_;
  bool wants_x_;
  Sums w_in_, taps_t_, taps_hw_, w_out_;
  i64 points_in_, points_, tile_ = 0;
  float* tiles_ = nullptr;  // one for each thread
  std::vector<float> flipped_;
};

}  // namespace hocp
