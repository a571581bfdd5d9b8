// Matrix products: C[m, n] = A[m, k] B[k, n], with few rows of A at a time held against panels of B.
#pragma once

#include <utility>

#include "vectors.h"

namespace hocp {

// Where the elements of A lie. Either the depth of a row is contiguous and rows are `stride` apart (channels innermost),
// or rows are adjacent and steps in depth are `stride` apart (channels outermost).
struct Left {
  const float* data;
  i64 stride;
  bool rows_adjacent;
  Left from(i64 row) const { return {data + (rows_adjacent ? row : row * stride), stride, rows_adjacent}; }
};

enum class Start { ZERO, BIAS, SUM };  // C is written, starts at the bias, or is added to

// Packed B: panels of PANEL columns (the last may be half), each [depth, width]; columns beyond `columns` are zero, and
// so are rows beyond `rows`. The element (k, n) of the source is at k * row + n * column; one of the two is 1.
inline void pack(const float* b, i64 row, i64 column, i64 rows, i64 depth, i64 columns, float* packed) {
  const i64 wide = padded(columns), panels = ceil_div(wide, PANEL);
#pragma omp parallel for if (depth * columns > 65536)
  for (i64 panel = 0; panel < panels; ++panel) {
    const i64 first = panel * PANEL, width = std::min<i64>(PANEL, wide - first);
    const i64 filled = std::min(width, columns - first);
    float* to = packed + first * depth;
    if (row == 1) {
      transpose(b + first * column, column, filled, rows, to, width);
    } else {
      for (i64 k = 0; k < rows; ++k) std::memcpy(to + k * width, b + k * row + first, filled * sizeof(float));
    }
    for (i64 k = 0; k < depth; ++k)
      if (k >= rows || filled < width) std::fill(to + k * width + (k < rows ? filled : 0), to + (k + 1) * width, 0.f);
  }
}

// The rare ends of a micro tile: fewer columns than a vector, or a sum with what is there.
__attribute__((noinline)) inline void finish(i64 rows, i64 columns, const float* block, i64 width, float* c, i64 c_stride,
                                             bool add) {
  for (i64 i = 0; i < rows; ++i, block += width, c += c_stride)
    for (i64 j = 0; j < columns; ++j) c[j] = add ? c[j] + block[j] : block[j];
}

template <int ROWS, int VECS, bool ADJACENT>
void micro(i64 depth, const float* a, i64 stride, const float* b, i64 b_stride, float* c, i64 c_stride,
           const float* bias, Start start, i64 columns) {
  Vec acc[ROWS][VECS];
  for (int v = 0; v < VECS; ++v) {
    const Vec first = start == Start::BIAS ? load(bias + v * LANES) : Vec{};
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) acc[i][v] = first;
  }
  for (i64 k = 0; k < depth; ++k) {
    Vec row[VECS];
    for (int v = 0; v < VECS; ++v) row[v] = load(b + k * b_stride + v * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i) {
      const float value = ADJACENT ? a[k * stride + i] : a[i * stride + k];
      for (int v = 0; v < VECS; ++v) acc[i][v] += row[v] * value;
    }
  }
  if (columns >= VECS * LANES) {
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < VECS; ++v) {
        float* to = c + i * c_stride + v * LANES;
        store(to, start == Start::SUM ? acc[i][v] + load(to) : acc[i][v]);
      }
  } else {
    float block[ROWS][VECS * LANES];
#pragma GCC unroll 16
    for (int i = 0; i < ROWS; ++i)
      for (int v = 0; v < VECS; ++v) store(&block[i][v * LANES], acc[i][v]);
    finish(ROWS, std::min<i64>(columns, VECS * LANES), block[0], VECS * LANES, c, c_stride, start == Start::SUM);
  }
}

typedef void (*Micro)(i64, const float*, i64, const float*, i64, float*, i64, const float*, Start, i64);

template <int VECS, bool ADJACENT, int... ROWS>
Micro pick_rows(i64 rows, std::integer_sequence<int, ROWS...>) {
  static const Micro table[] = {micro<ROWS + 1, VECS, ADJACENT>...};
  return table[rows - 1];
}

inline Micro pick(i64 rows, i64 width, bool adjacent) {
  constexpr auto all = std::make_integer_sequence<int, MICRO_ROWS>{};
  if (width == PANEL) return adjacent ? pick_rows<2, true>(rows, all) : pick_rows<2, false>(rows, all);
  return adjacent ? pick_rows<1, true>(rows, all) : pick_rows<1, false>(rows, all);
}

// Visit C in micro tiles, all columns for `block` rows at a time: tile(first row, row count, first column, width).
template <class Tile>
void for_tiles(i64 rows, i64 columns, i64 block, Tile tile) {
  const i64 wide = padded(columns), blocks = ceil_div(rows, MICRO_ROWS);
  const i64 height = blocks ? ceil_div(rows, blocks) : 1;  // 49 rows are better 4 x 12.25 than 3 x 14 + 7
  const i64 step = std::max<i64>(1, block / height) * height;
  for (i64 first = 0; first < rows; first += step) {
    const i64 last = std::min(rows, first + step);
    for (i64 j = 0; j < wide; j += PANEL)
      for (i64 i = first; i < last; i += height) tile(i, std::min(height, last - i), j, std::min<i64>(PANEL, wide - j));
  }
}

// C = A B (+ bias) with packed B; `bias` may be null and holds padded(columns) values.
inline void multiply(i64 rows, i64 depth, i64 columns, Left a, const float* packed, float* c, i64 c_stride,
                     const float* bias = nullptr) {
  const Start start = bias ? Start::BIAS : Start::ZERO;
  // While all of B stays close, every row of A is read once; else every panel of B is, by as many rows as stay close.
  const i64 floats = 64 * 1024, block = depth * padded(columns) <= floats ? 1 : floats / depth;
  for_tiles(rows, columns, block, [&](i64 i, i64 count, i64 j, i64 width) {
    pick(count, width, a.rows_adjacent)(depth, a.from(i).data, a.stride, packed + j * depth, width, c + i * c_stride + j,
                                        c_stride, bias ? bias + j : nullptr, start, columns - j);
  });
}

// C[m, n] += A[m, k] B[k, n] over a long depth, B being [depth, columns] as it lies with columns a multiple of LANES.
inline void accumulate(i64 rows, i64 depth, i64 columns, Left a, const float* b, float* c) {
  constexpr i64 SLICE = 192;  // rows of B that stay close while all tiles of C pass by
  for (i64 k = 0; k < depth; k += SLICE)
    for_tiles(rows, columns, 1, [&](i64 i, i64 count, i64 j, i64 width) {
      const float* data = a.from(i).data + (a.rows_adjacent ? k * a.stride : k);
      pick(count, width, a.rows_adjacent)(std::min(SLICE, depth - k), data, a.stride, b + k * columns + j, columns,
                                          c + i * columns + j, columns, nullptr, Start::SUM, columns - j);
    });
}

}  // namespace hocp
