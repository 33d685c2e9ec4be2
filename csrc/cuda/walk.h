#pragma once
// How a policy goes over a row on CUDA: each thread of a group takes some of its classes. A row is
// read from memory in every pass, or stays on the chip, in the registers of its threads.

#include <cuda_pipeline_primitives.h>

#include <algorithm>
#include <limits>

#include "../policies/device.h"
#include "group.h"

namespace torchsoftmax::cuda {

/// What a policy hands on to views with the number of an element: the class.
using Class = int64_t;

/// An operand in memory; elements are numbered by their class.
template <typename scalar_t, typename V>
struct MemoryView {
  using acc_t = typename V::value_type;
  using element = std::remove_const_t<scalar_t>;

  scalar_t* data;
  int64_t class_stride;

  __device__ V load(int64_t i, Class) const { return static_cast<acc_t>(data[i * class_stride]); }
  __device__ V first(int64_t i, Class c) const { return load(i, c); }
  /// Of a mask: `values` where it is true, `otherwise` where it is not.
  __device__ V select(int64_t i, Class, const V& values, double otherwise) const {
    return data[i * class_stride] ? values : V(static_cast<acc_t>(otherwise));
  }
  __device__ void store(int64_t i, const V& value, Class) const {
    data[i * class_stride] = static_cast<element>(value.number);
  }
};

/// What is the same however a thread's elements are numbered. Elements are dealt out to threads in
/// vectors of kVector.
template <typename OfLane, typename Group, int kVector>
class WalkBase {
 public:
  using V = OfLane;
  using acc_t = typename V::value_type;
  static constexpr bool kAlong = Group::kAlong;
  static constexpr int64_t kRows = 1;
  static constexpr bool kTogether = true;
  static constexpr bool kMerges = true;
  template <typename Out>
  static constexpr bool kExact = std::is_same_v<typename Out::element, acc_t>;

  /// `overwrites`: whether the output shares memory with an input.
  __device__ WalkBase(const Group& group, int64_t classes, bool active, bool overwrites)
      : group_(group), classes_(active ? classes : 0), active_(active), overwrites_(overwrites) {}

  __device__ V log(const V& statistic) const { return statistic.log(); }
  __device__ acc_t lane(const V& statistic, int64_t) const { return statistic.number; }
  __device__ void store_lanes(acc_t* values, const V& statistic) const {
    values[0] = statistic.number;
  }
  __device__ void store_rows(acc_t* values, RowRange rows, const V& statistic) const {
    if (leads()) {
      values[rows.first] = statistic.number;
    }
  }
  __device__ V load_rows(const acc_t* values, RowRange rows) const { return values[rows.first]; }
  template <typename Value>
  __device__ __forceinline__ V per_row(RowRange rows, Value&& value) const {
    return active_ ? static_cast<acc_t>(value(rows.first, 0)) : acc_t(0);
  }

  __device__ bool any(bool condition) const { return group_.any(condition); }
  __device__ bool any_nan(const V& statistic, RowRange) const {
    return any(std::isnan(statistic.number));
  }
  __device__ bool leads() const { return active_ && group_.rank() == 0; }
  __device__ void all_have_read() const {
    if (overwrites_) {
      group_.wait();
    }
  }
  template <typename Do>
  __device__ __forceinline__ void share(int64_t begin, int64_t end, Do&& run) const {
    for (int64_t k = begin + group_.rank(); active_ && k < end; k += group_.size()) {
      run(k);
    }
  }

  /// One element: class `c` of the row.
  template <typename View>
  __device__ auto& at(const View& view, int64_t c, int64_t) const {
    return view.data[c * view.class_stride];
  }
  /// By the thread that wrote it.
  template <typename View>
  __device__ void put(const View& view, int64_t c, int64_t row, acc_t value) const {
    if (owns(c)) {
      at(view, c, row) = static_cast<typename View::element>(value);
    }
  }
  template <typename View>
  __device__ void add_to(const View& view, int64_t c, int64_t row, acc_t value) const {
    if (owns(c)) {
      at(view, c, row) += value;
    }
  }

  template <typename View>
  __device__ int64_t first_equal(const View& view, int64_t classes, int64_t row,
                                 acc_t value) const {
    return first_of(view, classes, row, [=](acc_t x) { return x == value; });
  }
  template <typename View>
  __device__ int64_t first_nan(const View& view, int64_t classes, int64_t row) const {
    return first_of(view, classes, row, [](acc_t x) { return std::isnan(x); });
  }

 protected:
  __device__ bool owns(int64_t c) const {
    return active_ && c / kVector % group_.size() == group_.rank();
  }

  /// The first class for which `found` is true, or `classes`.
  template <typename View, typename Found>
  __device__ int64_t first_of(const View& view, int64_t classes, int64_t row,
                              const Found& found) const {
    const int64_t none = classes;
    std::array<int64_t, 1> first{none};
    for (int64_t c = group_.rank(); c < classes_; c += group_.size()) {
      if (found(static_cast<acc_t>(at(view, c, row)))) {
        first[0] = c;
        break;
      }
    }
    group_.reduce(first, &none, [](size_t, int64_t a, int64_t b) { return a < b ? a : b; });
    return first[0];
  }

  const Group& group_;
  const int64_t classes_;
  const bool active_;
  const bool overwrites_;
};

/// The reductions of a walk whose for_each(step) calls step(i, c) for every element of a thread:
/// number i, class c.
template <typename Walk, typename V, typename Group, int kVector>
class Reductions : public WalkBase<V, Group, kVector> {
 public:
  using acc_t = typename V::value_type;
  using WalkBase<V, Group, kVector>::WalkBase;

  /// The row's maximum of term(i, c), in every thread.
  template <typename Term>
  __device__ __forceinline__ V maximum(Term&& term) const {
    const acc_t lowest = -std::numeric_limits<acc_t>::infinity();
    acc_t largest = lowest;
    self().for_each([&](int64_t i, Class c) { largest = std::fmax(largest, term(i, c).number); });
    std::array<acc_t, 1> terms{largest};
    this->group_.reduce(terms, &lowest, [](size_t, acc_t a, acc_t b) { return std::fmax(a, b); });
    return terms[0];
  }

  /// The row's sums of each of the kTerms values that terms(i, c) returns.
  template <size_t kTerms, typename Terms>
  __device__ __forceinline__ std::array<V, kTerms> sums(Terms&& terms) const {
    // Several sums round less than one: in registers side by side, which also hides the latency of
    // the addition, and in memory one after the other.
    acc_t partial[kPartial][kTerms] = {};
    int count = 0;
    self().for_each([&](int64_t i, Class c) {
      const std::array<V, kTerms> more = terms(i, c);
#pragma unroll
      for (size_t k = 0; k < kTerms; ++k) {
        partial[Walk::kUnrolled ? i % kPartial : 0][k] += more[k].number;
      }
      if (!Walk::kUnrolled && ++count % kRun == 0) {
#pragma unroll
        for (size_t k = 0; k < kTerms; ++k) {
          partial[1][k] += partial[0][k];
          partial[0][k] = 0;
        }
      }
    });
    std::array<acc_t, kTerms> total, zeros;
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      zeros[k] = 0;
      total[k] = (partial[0][k] + partial[1][k]) + (partial[2][k] + partial[3][k]);
    }
    this->group_.reduce(total, zeros.data(), [](size_t, acc_t a, acc_t b) { return a + b; });
    std::array<V, kTerms> result;
#pragma unroll
    for (size_t k = 0; k < kTerms; ++k) {
      result[k] = total[k];
    }
    return result;
  }
  /// See MaximumAndSum. In registers each warp takes its terms less its own maximum, and they are
  /// put together in one reduction instead of two.
  template <typename Largest, typename RowOf, typename Term>
  __device__ __forceinline__ auto merged_sum(Largest&& largest, RowOf&& row_of, Term&& term) const {
    using Row = decltype(row_of(V(0)));
    if constexpr (!Walk::kUnrolled) {
      const V max = maximum(largest);
      const Row row = row_of(max);
      const V total = sum([&](int64_t i, Class c) { return term(row, i, c); });
      return MaximumAndSum<V, Row>{max, row, total};
    } else {
      const acc_t lowest = -std::numeric_limits<acc_t>::infinity();
      std::array<acc_t, 2> found{lowest, 0};
      self().for_each(
          [&](int64_t i, Class c) { found[0] = std::fmax(found[0], largest(i, c).number); });
      std::array<acc_t, 1> of_warp{found[0]};
      const auto larger = [](size_t, acc_t a, acc_t b) { return std::fmax(a, b); };
      const auto plus = [](size_t, acc_t a, acc_t b) { return a + b; };
      reduce_warp(of_warp, larger);
      found[0] = of_warp[0];
      // Of a warp in which nothing takes part, any finite number will do: its terms are 0.
      const Row own = row_of(V(found[0] == lowest ? acc_t(0) : found[0]));
      acc_t partial[kPartial] = {};
      self().for_each([&](int64_t i, Class c) { partial[i % kPartial] += term(own, i, c).number; });
      of_warp[0] = (partial[0] + partial[1]) + (partial[2] + partial[3]);
      reduce_warp(of_warp, plus);
      found[1] = of_warp[0];
      if constexpr (Group::kOneWarp) {
        return MaximumAndSum<V, Row>{V(found[0]), row_of(V(found[0])), V(found[1])};
      } else {
        const auto table = this->group_.gather(found);
        const int lane = threadIdx.x % kWarp;
        of_warp[0] = lowest;
        for (int warp = lane; warp < table.warps; warp += kWarp) {
          of_warp[0] = std::fmax(of_warp[0], table.at(0, warp));
        }
        reduce_warp(of_warp, larger);
        const V max(of_warp[0]);
        const Row row = row_of(max);
        const auto weight_of = [&](acc_t other) {
          return other == lowest ? V(0) : exp_nonpositive(row.shifted(row.value(V(other))));
        };
        of_warp[0] = 0;
        for (int warp = lane; warp < table.warps; warp += kWarp) {
          of_warp[0] += table.at(1, warp) * weight_of(table.at(0, warp)).number;
        }
        reduce_warp(of_warp, plus);
        return MaximumAndSum<V, Row>{max, row, V(of_warp[0])};
      }
    }
  }

  template <typename Term>
  __device__ __forceinline__ V sum(Term&& term) const {
    return sums<1>([&](int64_t i, Class c) { return std::array<V, 1>{term(i, c)}; })[0];
  }

 private:
  static constexpr int kPartial = 4;
  static constexpr int kRun = 32;

  __device__ const Walk& self() const { return static_cast<const Walk&>(*this); }
};

/// Over a row in memory.
template <typename V, typename Group>
class MemoryWalk : public Reductions<MemoryWalk<V, Group>, V, Group, 1> {
 public:
  static constexpr bool kUnrolled = false;
  using acc_t = typename V::value_type;
  using Reductions<MemoryWalk, V, Group, 1>::Reductions;

  template <typename Step>
  __device__ __forceinline__ void for_each(Step&& step) const {
#pragma unroll 4
    for (int64_t c = this->group_.rank(); c < this->classes_; c += this->group_.size()) {
      step(c, c);
    }
  }
  __device__ V per_class(const acc_t* values, int64_t, Class c) const { return values[c]; }
};

/// Over a row in registers: kVectors vectors of kVector elements in each thread, or fewer.
template <typename V, typename Group, int kVector, int kVectors>
class RegisterWalk
    : public Reductions<RegisterWalk<V, Group, kVector, kVectors>, V, Group, kVector> {
 public:
  static constexpr bool kUnrolled = true;
  using acc_t = typename V::value_type;
  using Reductions<RegisterWalk, V, Group, kVector>::Reductions;

  /// step(v, c) for every vector: its number, and the class of its first element.
  template <typename Step>
  __device__ __forceinline__ void for_each_vector(Step&& step) const {
    int first = static_cast<int>(this->group_.rank()) * kVector;
    // Places are computed anew in every pass: what a compiler keeps of them costs registers.
    asm volatile("" : "+r"(first));
    const int distance = static_cast<int>(this->group_.size()) * kVector;
    const int classes = static_cast<int>(this->classes_);
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = first + v * distance;
      if (c < classes) {
        step(v, c);
      }
    }
  }
  template <typename Step>
  __device__ __forceinline__ void for_each(Step&& step) const {
    for_each_vector([&](int v, int c) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        step(v * kVector + e, c + e);
      }
    });
  }
  __device__ V per_class(const acc_t* values, int64_t, Class c) const { return values[c]; }
};

/// What is moved at once: 16 bytes.
template <typename scalar_t>
inline constexpr int kVectorOf = 16 / sizeof(scalar_t);

template <typename scalar_t>
struct alignas(16) Vector {
  scalar_t elements[kVectorOf<scalar_t>];
};

/// Room in shared memory for a thread's vectors of a row: they are on their way there while the row
/// before is worked on.
template <typename element>
struct Fetched {
  Vector<element>* vectors;  // the first of this thread

  __device__ Vector<element>& at(int v) const { return vectors[v * blockDim.x]; }

  template <typename Walk>
  __device__ __forceinline__ void fetch(const element* row, const Walk& walk) const {
    walk.for_each_vector([&](int v, int c) { __pipeline_memcpy_async(&at(v), row + c, 16); });
  }
};

/// A row that is read once, into registers.
template <typename scalar_t, typename V, int kVectors>
struct RegisterView {
  using acc_t = typename V::value_type;
  using element = std::remove_const_t<scalar_t>;
  static constexpr int kVector = kVectorOf<element>;

  const element* data;
  static constexpr int64_t class_stride = 1;
  Vector<element> vectors[kVectors];

  /// From memory.
  template <typename Walk>
  __device__ __forceinline__ RegisterView(const element* row, const Walk& walk) : data(row) {
    forget();
    walk.for_each_vector(
        [&](int v, int c) { vectors[v] = *reinterpret_cast<const Vector<element>*>(data + c); });
  }
  /// From shared memory, where this thread has fetched its vectors.
  template <typename Walk>
  __device__ __forceinline__ RegisterView(const element* row, const Walk& walk,
                                          const Fetched<element>& fetched)
      : data(row) {
    forget();
    walk.for_each_vector([&](int v, int) { vectors[v] = fetched.at(v); });
  }

  __device__ __forceinline__ V load(int64_t i, Class) const {
    return static_cast<acc_t>(vectors[i / kVector].elements[i % kVector]);
  }
  __device__ __forceinline__ V first(int64_t i, Class c) const { return load(i, c); }

 private:
  /// Without an instruction: otherwise vectors that a short row does not fill would be kept from
  /// the row before, in registers beside those of this row.
  __device__ __forceinline__ void forget() {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      uint4 any;
      asm volatile("" : "=r"(any.x), "=r"(any.y), "=r"(any.z), "=r"(any.w));
      memcpy(&vectors[v], &any, sizeof(any));
    }
  }
};

/// An output that is written in vectors.
template <typename scalar_t, typename V>
struct VectorOutput {
  using acc_t = typename V::value_type;
  using element = scalar_t;
  static constexpr int kVector = kVectorOf<element>;
  static constexpr int64_t class_stride = 1;

  scalar_t* data;
  mutable Vector<element> vector;

  __device__ __forceinline__ void store(int64_t i, const V& value, Class c) const {
    vector.elements[i % kVector] = static_cast<element>(value.number);
    if (i % kVector == kVector - 1) {
      *reinterpret_cast<Vector<element>*>(data + c - (kVector - 1)) = vector;
    }
  }
};

}  // namespace torchsoftmax::cuda
