#pragma once
// A row that is read once, into the registers of its threads.

#include <cuda_pipeline_primitives.h>

#include "single.h"
#include "vectors.h"
#include "walk.h"

namespace torchsoftmax::cuda {

/// What a policy hands on to views with the number of an element in a vector: the class.
struct InVector {
  int64_t c;
};

/// A group, how many vectors of a row its threads hold at once, and whether rows begin and end
/// anywhere. Of a block with kCountOfThreads threads, the first vectors of all are side by side,
/// then the second ones, and each block of a cluster has a slice of the row: so the distance of two
/// vectors is known to the compiler. Where that is 0, it is the group's number of threads.
template <typename OfThreads, int kCount, bool kAnywhere = true, int kCountOfThreads = 0>
struct Held {
  using Group = OfThreads;
  static constexpr int kVectors = kCount;
  static constexpr bool kEdges = kAnywhere;
  static constexpr int kThreads = kCountOfThreads;
};

/// OfHeld::kVectors vectors of kVector elements in each thread, or fewer. With kEdges the row may
/// begin and end anywhere: a thread may have one of the elements that are in no whole vector, too.
template <typename OfLane, typename OfHeld, int kVector>
class RegisterWalk
    : public Reductions<RegisterWalk<OfLane, OfHeld, kVector>, OfLane, typename OfHeld::Group> {
  using Group = typename OfHeld::Group;
  using Base = Reductions<RegisterWalk, OfLane, Group>;
  static constexpr int kVectors = OfHeld::kVectors;
  static constexpr int kThreads = OfHeld::kThreads;
  static constexpr bool kEdges = OfHeld::kEdges;

 public:
  using V = OfLane;
  using acc_t = typename V::value_type;
  static constexpr bool kOnePart = true;

  /// `head`: how many elements come before the first whole vector.
  __device__ RegisterWalk(const Group& group, int64_t classes, int64_t head)
      : Base(group, classes, /*active=*/true),
        head_(kEdges ? static_cast<int>(std::min(head, classes)) : 0),
        end_(static_cast<int>(kEdges ? head_ + (classes - head_) / kVector * kVector : classes)) {
    if constexpr (kThreads > 0) {
      const int blocks = group.blocks(), vectors = (end_ - head_) / kVector;
      slice_ = ((vectors + blocks - 1) / blocks + kWarp - 1) / kWarp * kWarp;
      first_ = head_ + (group.block() * slice_ + static_cast<int>(threadIdx.x)) * kVector;
      end_of_slice_ = std::min(head_ + (group.block() + 1) * slice_ * kVector, end_);
    }
  }

  /// step(v, c) for every vector: its number, and the class of its first element.
  template <typename Step>
  __device__ __forceinline__ void for_each_vector(Step&& step) const {
    if constexpr (kThreads > 0) {
      constexpr int kDistance = kThreads * kVector;
      if (first_ + (kVectors - 1) * kDistance < end_of_slice_) {  // without a condition for each
#pragma unroll
        for (int v = 0; v < kVectors; ++v) {
          step(v, first_ + v * kDistance);
        }
        return;
      }
#pragma unroll
      for (int v = 0; v < kVectors; ++v) {
        if (first_ + v * kDistance < end_of_slice_) {
          step(v, first_ + v * kDistance);
        }
      }
      return;
    }
    int first = head_ + static_cast<int>(this->group_.rank()) * kVector;
    // Places are computed anew in every pass: what a compiler keeps of them costs registers.
    asm volatile("" : "+r"(first));
    const int distance = static_cast<int>(this->group_.size()) * kVector;
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int c = first + v * distance;
      if (c < end_) {
        step(v, c);
      }
    }
  }
  /// run(place) for the single element, if there is one.
  template <typename Run>
  __device__ __forceinline__ void for_single(Run&& run) const {
    if constexpr (kEdges) {
      const int64_t c =
          this->group_.rank() < head_ ? this->group_.rank() : this->group_.rank() - head_ + end_;
      if (c < head_ || (c >= end_ && c < this->classes_)) {
        run(Single{c});
      }
    }
  }
  template <typename Run>
  __device__ __forceinline__ void for_each_part(Run&& run) const {
    run(All{*this});
    for_single(run);
  }
  template <typename Place>
  __device__ V per_class(const acc_t* values, int64_t, const Place& place) const {
    return values[place.c];
  }
  /// Whether this thread works on the class.
  __device__ bool owns(int64_t class_index) const {
    const int c = static_cast<int>(class_index);  // rows in registers are short enough
    const auto rank = static_cast<unsigned>(this->group_.rank());
    if (kEdges && (c < head_ || c >= end_)) {
      return static_cast<unsigned>(c < head_ ? c : c - end_ + head_) == rank;
    }
    if constexpr (kThreads > 0) {
      static_assert((kThreads & (kThreads - 1)) == 0 && (kVector & (kVector - 1)) == 0);
      const int after = c - first_;  // this thread's first element
      return c < end_of_slice_ && after >= 0 && after / kVector % kThreads == 0;
    }
    return static_cast<unsigned>(c - head_) / kVector %
               static_cast<unsigned>(this->group_.size()) ==
           rank;
  }

 private:
  struct All {
    const RegisterWalk& walk;

    template <typename Step>
    __device__ __forceinline__ void for_each_vector(Step&& step) const {
      walk.for_each_vector(step);
    }
    template <typename Step>
    __device__ __forceinline__ void for_each(Step&& step) const {
      walk.for_each_vector([&](int v, int c) {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          step(v * kVector + e, InVector{c + e});
        }
      });
    }
  };

  const int head_, end_;
  int slice_ = 0;  // vectors of a block
  int first_ = 0, end_of_slice_ = 0;
};

/// Room in shared memory for a thread's vectors of a row: they are on their way there while the row
/// before is worked on.
template <typename element, int kThreads>
struct Fetched {
  using Moved = Vector<element, kVectorOf<element>>;

  Moved* vectors;  // the first of this thread

  __device__ Moved& at(int v) const { return vectors[v * kThreads]; }

  template <typename Walk>
  __device__ __forceinline__ void fetch(const element* row, const Walk& walk) const {
    walk.for_each_vector(
        [&](int v, int c) { __pipeline_memcpy_async(&at(v), row + c, sizeof(Moved)); });
  }
};

/// A row that is read once, into registers.
template <typename scalar_t, typename V, int kVectors>
struct RegisterView {
  using acc_t = typename V::value_type;
  using element = std::remove_const_t<scalar_t>;
  static constexpr int kVector = kVectorOf<element>;
  static constexpr int64_t class_stride = 1;

  const element* data;
  mutable Vector<element, kVector> vectors[kVectors];
  mutable element single;

  /// From memory.
  template <typename Walk>
  __device__ __forceinline__ RegisterView(const element* row, const Walk& walk) : data(row) {
    forget();
    walk.for_each_vector([&](int v, int c) {
      vectors[v] = *reinterpret_cast<const Vector<element, kVector>*>(data + c);
    });
    walk.for_single([&](const Single& place) { single = data[place.c]; });
  }
  /// From shared memory, where this thread has fetched its vectors.
  template <typename Walk, int kThreads>
  __device__ __forceinline__ RegisterView(const element* row, const Walk& walk,
                                          const Fetched<element, kThreads>& fetched)
      : data(row) {
    forget();
    walk.for_each_vector([&](int v, int) { vectors[v] = fetched.at(v); });
  }

  __device__ __forceinline__ V load(int64_t i, const InVector&) const {
    return static_cast<acc_t>(vectors[i / kVector].elements[i % kVector]);
  }
  __device__ __forceinline__ V load(int64_t, const Single&) const {
    return static_cast<acc_t>(single);
  }
  template <typename Place>
  __device__ __forceinline__ V first(int64_t i, const Place& place) const {
    return load(i, place);
  }
  /// Puts something else into the place of an element.
  __device__ __forceinline__ void replace(int64_t i, const V& value, const InVector&) const {
    vectors[i / kVector].elements[i % kVector] = value.number;
  }
  __device__ __forceinline__ void replace(int64_t, const V& value, const Single&) const {
    single = value.number;
  }
  template <typename Part>
  __device__ __forceinline__ acc_t largest_of(const Part& all) const {
    LargestOf<element, kVector> largest;
    all.for_each_vector([&](int v, int) { largest.add(vectors[v]); });
    return static_cast<acc_t>(largest.value());
  }
  __device__ __forceinline__ acc_t largest_of(const Single&) const {
    return static_cast<acc_t>(single);
  }

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

/// Room for the terms of a row in the place of its elements, which are as large.
template <typename View>
struct InTheirPlace {
  const View& view;

  template <typename V, typename Place>
  __device__ __forceinline__ void store(int64_t i, const V& term, const Place& place) const {
    view.replace(i, term, place);
  }
  template <typename Place>
  __device__ __forceinline__ auto load(int64_t i, const Place& place) const {
    return view.load(i, place);
  }
};

/// What a policy with these operands may keep its terms in.
template <typename RowPolicy, typename View, typename... More>
__device__ __forceinline__ auto room_of(const View& view, const More&...) {
  using element = typename View::element;
  constexpr bool kAsLarge = std::is_same_v<element, typename View::acc_t>;
  if constexpr (RowPolicy::kStaged && RowPolicy::kKeeps && kAsLarge && sizeof...(More) == 0) {
    return InTheirPlace<View>{view};
  } else {
    return NoRoom{};
  }
}

/// An output that is written in vectors.
template <typename scalar_t, typename V>
struct VectorOutput {
  using acc_t = typename V::value_type;
  using element = scalar_t;
  static constexpr int kVector = kVectorOf<element>;
  static constexpr int64_t class_stride = 1;

  scalar_t* data;
  mutable Vector<element, kVector> vector;

  __device__ __forceinline__ void store(int64_t i, const V& value, const InVector& place) const {
    vector.elements[i % kVector] = static_cast<element>(value.number);
    if (i % kVector == kVector - 1) {
      *reinterpret_cast<Vector<element, kVector>*>(data + place.c - (kVector - 1)) = vector;
    }
  }
  __device__ __forceinline__ void store(int64_t, const V& value, const Single& place) const {
    data[place.c] = static_cast<element>(value.number);
  }
};

}  // namespace torchsoftmax::cuda
