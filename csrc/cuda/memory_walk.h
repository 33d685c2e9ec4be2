#pragma once
// A row in memory, which is read in every pass: in vectors where its classes are side by side.

#include "single.h"
#include "vectors.h"
#include "walk.h"

namespace torchsoftmax::cuda {

/// kVectors vectors of kVector elements, some of which may be beyond the end.
template <int kVector, int kVectors>
struct Chunk {
  int64_t first;     // class of the first element
  int64_t distance;  // of two vectors
  int64_t end;       // of the classes in vectors

  struct Place {
    Chunk chunk;
    int64_t c;
  };

  template <typename Step>
  __device__ __forceinline__ void for_each_vector(Step&& step) const {
#pragma unroll
    for (int v = 0; v < kVectors; ++v) {
      const int64_t c = first + v * distance;
      if (c < end) {
        step(v, c);
      }
    }
  }
  template <typename Step>
  __device__ __forceinline__ void for_each(Step&& step) const {
    for_each_vector([&](int v, int64_t c) {
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        step(v * kVector + e, Place{*this, c + e});
      }
    });
  }
};

/// kVectors is 0 where the classes are apart from each other.
template <typename OfLane, typename Group, int kVector, int kVectors>
class MemoryWalk : public Reductions<MemoryWalk<OfLane, Group, kVector, kVectors>, OfLane, Group> {
  using Base = Reductions<MemoryWalk, OfLane, Group>;

 public:
  using V = OfLane;
  using acc_t = typename V::value_type;
  static constexpr bool kOnePart = false;

  /// `head`: how many elements come before the first whole vector.
  __device__ MemoryWalk(const Group& group, int64_t classes, int64_t head, bool active)
      : Base(group, classes, active),
        head_(kVectors == 0 ? this->classes_ : std::min(head, this->classes_)),
        end_(head_ + (this->classes_ - head_) / kVector * kVector) {}

  template <typename Run>
  __device__ __forceinline__ void for_each_part(Run&& run) const {
    const int64_t size = this->group_.size(), rank = this->group_.rank();
    if constexpr (kVectors > 0) {
      const int64_t distance = size * kVector;
      for (int64_t c = head_ + rank * kVector; c < end_; c += kVectors * distance) {
        run(Chunk<kVector, kVectors>{c, distance, end_});
      }
    }
    const int64_t singles = this->classes_ - (end_ - head_);
#pragma unroll 4
    for (int64_t k = rank; k < singles; k += size) {
      run(Single{k < head_ ? k : k + (end_ - head_)});
    }
  }
  template <typename Place>
  __device__ V per_class(const acc_t* values, int64_t, const Place& place) const {
    return values[place.c];
  }
  /// Whether this thread works on the class.
  __device__ bool owns(int64_t c) const {
    const int64_t unit = c < head_ ? c : c < end_ ? (c - head_) / kVector : c - (end_ - head_);
    return this->active_ && unit % this->group_.size() == this->group_.rank();
  }

 private:
  const int64_t head_, end_;
};

/// An operand in memory.
template <typename scalar_t, typename V, int kVector, int kVectors>
struct MemoryView {
  using acc_t = typename V::value_type;
  using element = std::remove_const_t<scalar_t>;
  using Vectors = Chunk<kVector, kVectors>;
  using Place = typename Vectors::Place;

  scalar_t* data;
  int64_t class_stride;
  bool aligned;  // where vectors begin
  mutable Vector<element, kVector> vectors[kVectors > 0 ? kVectors : 1];

  __device__ MemoryView(scalar_t* row, int64_t class_stride, int64_t head)
      : data(row),
        class_stride(class_stride),
        aligned(reinterpret_cast<uintptr_t>(row + head) % sizeof(vectors[0]) == 0) {}

  /// The vectors of a chunk are read when its first element is asked for.
  __device__ __forceinline__ element read(int64_t i, const Place& place) const {
    if (i == 0) {
      fetch(place.chunk);
    }
    return vectors[i / kVector].elements[i % kVector];
  }
  __device__ __forceinline__ element read(int64_t, const Single& place) const {
    return data[place.c * class_stride];
  }
  template <typename At>
  __device__ __forceinline__ V load(int64_t i, const At& place) const {
    return static_cast<acc_t>(read(i, place));
  }
  template <typename At>
  __device__ __forceinline__ V first(int64_t i, const At& place) const {
    return load(i, place);
  }
  /// Of a mask: `values` where it is true, `otherwise` where it is not.
  template <typename At>
  __device__ __forceinline__ V select(int64_t i, const At& place, const V& values,
                                      double otherwise) const {
    return read(i, place) ? values : V(static_cast<acc_t>(otherwise));
  }
  __device__ __forceinline__ acc_t largest_of(const Vectors& chunk) const {
    fetch(chunk);
    LargestOf<element, kVector> largest;
    chunk.for_each_vector([&](int v, int64_t) { largest.add(vectors[v]); });
    return static_cast<acc_t>(largest.value());
  }
  __device__ __forceinline__ acc_t largest_of(const Single& place) const {
    return static_cast<acc_t>(read(0, place));
  }

  __device__ __forceinline__ void store(int64_t i, const V& value, const Single& place) const {
    data[place.c * class_stride] = static_cast<element>(value.number);
  }
  /// A vector is written with its last element.
  __device__ __forceinline__ void store(int64_t i, const V& value, const Place& place) const {
    vectors[0].elements[i % kVector] = static_cast<element>(value.number);
    if (i % kVector == kVector - 1) {
      const int64_t c = place.c - (kVector - 1);
      if (aligned) {
        *reinterpret_cast<Vector<element, kVector>*>(data + c) = vectors[0];
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          data[c + e] = vectors[0].elements[e];
        }
      }
    }
  }

 private:
  __device__ __forceinline__ void fetch(const Vectors& chunk) const {
    chunk.for_each_vector([&](int v, int64_t c) {
      if (aligned) {
        vectors[v] = *reinterpret_cast<const Vector<element, kVector>*>(data + c);
      } else {
#pragma unroll
        for (int e = 0; e < kVector; ++e) {
          vectors[v].elements[e] = data[c + e];
        }
      }
    });
  }
};

}  // namespace torchsoftmax::cuda
