#pragma once
// How a policy sees an operand: vectors along a row, or vectors of neighbouring rows.

#include "pack.h"

namespace torchsoftmax::cpu {

/// What is fetched into the caches while an operand is read along a row. kAhead: more of it, from
/// further ahead than the processor does by itself.
enum class Fetching { kNothing, kOutput, kNextRow, kAhead };

// The longest rows, in bytes, that are fetched while the row before is worked on: that one and what
// it keeps have to stay in the second level of the cache.
inline constexpr int64_t kFetchedRow = int64_t{1} << 19;

/// An operand along a row, as a policy sees it: `i` is the first class of a vector.
template <typename scalar_t, typename acc_t, Fetching kFetching = Fetching::kNothing>
struct View {
  using element = std::remove_const_t<scalar_t>;

  scalar_t* data;
  // The row that is fetched, and the bytes from one of its classes to the next. Without a
  // condition, which would cost more: where there is nothing to fetch, it is a row that is in the
  // caches.
  const char* fetched = nullptr;
  int64_t fetched_step = 0;

  template <typename Lanes>
  Vec<acc_t> load(int64_t i, Lanes lanes) const {
    if constexpr (kFetching == Fetching::kNextRow) {
      __builtin_prefetch(fetched + i * fetched_step, 0, 2);  // into the second level
    }
    return cpu::load<acc_t>(data + i, lanes);
  }
  /// The same in a policy's first pass over the operand, during which the output is fetched: a
  /// store into the cache reads memory first, and then waits for it alone.
  template <typename Lanes>
  Vec<acc_t> first(int64_t i, Lanes lanes) const {
    if constexpr (kFetching == Fetching::kOutput) {
      __builtin_prefetch(fetched + i * fetched_step, 1);
    } else if constexpr (kFetching == Fetching::kAhead) {
      constexpr int64_t kBytes = 2048;
      __builtin_prefetch(reinterpret_cast<const char*>(data + i) + kBytes);
    }
    return cpu::load<acc_t>(data + i, lanes);
  }
  /// Of a mask: `values` where it is true, `otherwise` where it is not.
  template <typename Lanes>
  Vec<acc_t> select(int64_t i, Lanes lanes, const Vec<acc_t>& values, double otherwise) const {
    return cpu::select<acc_t>(data + i, lanes, values, Vec<acc_t>(static_cast<acc_t>(otherwise)));
  }
  /// The first class of the first whole vector that holds the value, or of what is left behind the
  /// whole vectors.
  int64_t first_vector_with(acc_t value, int64_t classes) const {
    constexpr int kNone = static_cast<int>((int64_t{1} << kLanes<acc_t>)-1);
    int64_t c = 0;
    while (c + kLanes<acc_t> <= classes &&
           (load(c, AllLanes<acc_t>{}) == Vec<acc_t>(value)).zero_mask() == kNone) {
      c += kLanes<acc_t>;
    }
    return c;
  }
};

/// A vector of an operand that has been read.
template <typename acc_t>
struct ReadVector {
  Vec<acc_t> value;

  template <typename Lanes>
  const Vec<acc_t>& load(int64_t, Lanes) const {
    return value;
  }
  template <typename Lanes>
  const Vec<acc_t>& first(int64_t, Lanes) const {
    return value;
  }
};

/// An output along a row. `Streamed`, bool or a constant: whether whole vectors, at multiples of
/// their size, go past the caches.
template <typename scalar_t, typename acc_t, typename Streamed = bool>
struct Output : View<scalar_t, acc_t> {
  Streamed streamed{};

  template <typename Lanes>
  void store(int64_t i, const Vec<acc_t>& value, Lanes lanes) const {
    if constexpr (std::is_same_v<Lanes, AllLanes<acc_t>>) {
      if (streamed) {
        stream<acc_t>(this->data + i, value);
        return;
      }
    }
    cpu::store<acc_t>(this->data + i, value, lanes);
  }
};

/// Intermediate values of a row.
template <typename acc_t>
struct Kept {
  acc_t* data;

  template <typename Lanes>
  Vec<acc_t> load(int64_t i, Lanes lanes) const {
    return cpu::load<acc_t>(data + i, lanes);
  }
  template <typename Lanes>
  void store(int64_t i, const Vec<acc_t>& value, Lanes lanes) const {
    cpu::store<acc_t>(data + i, value, lanes);
  }
};

/// What a policy computes with across rows: kCount vectors of neighbouring rows.
template <typename acc_t, int kCount>
using Across = std::conditional_t<kCount == 1, Vec<acc_t>, Pack<acc_t, kCount>>;

/// Elements that lie side by side, one of each row.
template <typename acc_t, int kCount, typename scalar_t, typename Lanes>
Vec<acc_t> load_across(const scalar_t* data, Lanes lanes) {
  return cpu::load<acc_t>(data, lanes);
}
template <typename acc_t, int kCount, typename scalar_t>
Pack<acc_t, kCount> load_across(const scalar_t* data, Overlapping rows) {
  return Pack<acc_t, kCount>::of([&](auto k) {
    constexpr AllLanes<acc_t> kAll;
    return cpu::load<acc_t>(data + (k + 1 < kCount ? k * kAll : rows.last), kAll);
  });
}
template <typename acc_t, typename scalar_t, typename Lanes>
void store_across(scalar_t* data, const Vec<acc_t>& value, Lanes lanes) {
  cpu::store<acc_t>(data, value, lanes);
}
template <typename acc_t, typename scalar_t, int kCount>
void store_across(scalar_t* data, const Pack<acc_t, kCount>& value, Overlapping rows) {
  unrolled<kCount>([&](auto k) {
    constexpr AllLanes<acc_t> kAll;
    cpu::store<acc_t>(data + (k + 1 < kCount ? k * kAll : rows.last), value.vectors[k], kAll);
  });
}

/// Values of rows across, in the accumulation type: packed, or in a tensor.
template <typename acc_t, int kCount>
struct Columns {
  using V = Across<acc_t, kCount>;

  acc_t* data;
  int64_t class_stride;

  template <typename Lanes>
  V load(int64_t i, Lanes lanes) const {
    return load_across<acc_t, kCount>(data + i * class_stride, lanes);
  }
  template <typename Lanes>
  void store(int64_t i, const V& value, Lanes lanes) const {
    store_across<acc_t>(data + i * class_stride, value, lanes);
  }
};

/// An operand across rows. Where neighbouring rows lie side by side, `tensor` is their place, and
/// `packs` tells whether the first pass leaves a packed copy there for the passes behind it;
/// otherwise the rows are packed beforehand. In packed memory the classes of a group of rows follow
/// each other.
template <typename scalar_t, typename acc_t, int kCount>
struct AcrossView {
  using V = Across<acc_t, kCount>;
  static constexpr int64_t kStep = kCount * kLanes<acc_t>;

  const scalar_t* tensor;  // null where packed beforehand
  int64_t class_stride;
  bool packs;
  Columns<acc_t, kCount> packed;

  template <typename Lanes>
  V load(int64_t i, Lanes lanes) const {
    return packs || tensor == nullptr ? packed.load(i, lanes) : from_tensor(i, lanes);
  }
  template <typename Lanes>
  V first(int64_t i, Lanes lanes) const {
    if (tensor == nullptr) {
      return packed.load(i, lanes);
    }
    const V value = from_tensor(i, lanes);
    // The classes of a row are far apart, so hardware foresees little of what comes next.
    unrolled<kCount>([&](auto k) {
      __builtin_prefetch(tensor + i * class_stride + 2 * kStep + k * kLanes<acc_t>);
    });
    if (packs) {
      packed.store(i, value, lanes);
    }
    return value;
  }
  /// Of a mask, which is always packed: see View.
  template <typename Lanes>
  V select(int64_t i, Lanes lanes, const V& values, double otherwise) const {
    return V::blendv(V(static_cast<acc_t>(otherwise)), values, packed.load(i, lanes) != V(0));
  }

 private:
  template <typename Lanes>
  V from_tensor(int64_t i, Lanes lanes) const {
    return load_across<acc_t, kCount>(tensor + i * class_stride, lanes);
  }
};

/// An output across rows: written to the tensor where rows lie side by side there, otherwise to
/// packed memory.
template <typename scalar_t, typename acc_t, int kCount>
struct AcrossOutput {
  using element = acc_t;  // of an output that is not direct
  using V = Across<acc_t, kCount>;
  static constexpr int64_t kStep = kCount * kLanes<acc_t>;

  scalar_t* tensor;  // null where it is unpacked afterwards
  int64_t class_stride;
  bool streamed;  // of several vectors, all whole
  Columns<acc_t, kCount> packed;

  template <typename Lanes>
  void store(int64_t i, const V& value, Lanes lanes) const {
    if (tensor == nullptr) {
      packed.store(i, value, lanes);
      return;
    }
    if constexpr (kCount > 1) {
      if (streamed) {
        unrolled<kCount>([&](auto k) {
          stream<acc_t>(tensor + i * class_stride + k * kLanes<acc_t>, value.vectors[k]);
        });
        return;
      }
    }
    store_across<acc_t>(tensor + i * class_stride, value, lanes);
  }
};

}  // namespace torchsoftmax::cpu
