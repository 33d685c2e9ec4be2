#pragma once
// Policies are the mathematics of one row, written once for every device. Each device compiles them
// in its own namespace, with its own values (SIMD vectors of rows or classes on the CPU, one number
// of a thread on CUDA) and its own walk over a row: cpu/walk.h and cuda/walk.h.
//
// Contract of a policy: it is called with a walk, the rows, a place for intermediate values and
// views of its operands. It reads an element for the last time before it writes that element,
// single ones by `own`, in the thread that writes them; and it writes every element of its output.
// So outputs may share memory with inputs.

#include <cstdint>
#include <limits>
#include <type_traits>

// Tests run the CUDA sources on the CPU too: tests/emulated_cuda.
#if defined(__CUDACC__) || defined(TORCHSOFTMAX_EMULATED_CUDA)
#define TORCHSOFTMAX_ON_CUDA
#endif

#if defined(TORCHSOFTMAX_ON_CUDA)
#define TORCHSOFTMAX_DEVICE cuda
#define TORCHSOFTMAX_FN __device__ __forceinline__
#define TORCHSOFTMAX_EVERYWHERE __host__ __device__
#define TORCHSOFTMAX_INTERNAL(name) inline namespace name
#include "../cuda/lane.h"
#else
#define TORCHSOFTMAX_DEVICE cpu
#define TORCHSOFTMAX_FN
#define TORCHSOFTMAX_EVERYWHERE
// Without a name, so that loops over these policies are functions of their file alone: GCC inlines
// them otherwise, and a softmax in the caches takes twice the time if it does not.
#define TORCHSOFTMAX_INTERNAL(name) namespace
#include "../cpu/reciprocal.h"
#endif

namespace torchsoftmax::TORCHSOFTMAX_DEVICE {

/// In place of a view of intermediate values where there is no room for them.
struct NoRoom {};
template <typename Keep>
inline constexpr bool kHasRoom = !std::is_same_v<Keep, NoRoom>;

#if defined(TORCHSOFTMAX_ON_CUDA)
/// Whether losses of logits that nothing is done to have kernels for each kind of work, or one for
/// all.
inline constexpr bool kLossesByWork = true;
/// Whether masked logits that nothing else is done to have kernels of their own.
inline constexpr bool kPlainMasked = false;
/// Whether losses are rounded once, and the target's entry of a gradient is its exponential over
/// the sum. Not yet on a GPU, where it has not been run.
inline constexpr bool kTwoParts = false;
#else
inline constexpr bool kLossesByWork = false;
inline constexpr bool kPlainMasked = true;
inline constexpr bool kTwoParts = true;
#endif

inline constexpr double kMinusInfinity = -std::numeric_limits<double>::infinity();

/// The quotient; nan, not inf, where the weights sum to 0.
template <typename T>
TORCHSOFTMAX_EVERYWHERE T over(T value, T normalizer) {
  return value / normalizer + T(0) / normalizer;
}

/// What a row's sum is for. kRatio and kLog: of exponentials, which are divided by it, or its
/// logarithm is taken.
enum class SumFor { kItself, kRatio, kLog };

/// The rows that one call of a policy works on.
struct RowRange {
  int64_t first;
  int64_t count;
};

/// An operand as the term that its own elements are: their maximum can be taken without converting
/// each.
template <typename View>
struct Elements {
  const View& view;

  template <typename Lanes>
  TORCHSOFTMAX_FN auto operator()(int64_t i, Lanes lanes) const {
    return view.first(i, lanes);
  }
};

/// The maximum of a row, what a policy makes of it, and the sum of terms that depend on that.
template <typename V, typename Row>
struct MaximumAndSum {
  V max;
  Row row;
  V sum;
  V own;  // the maximum that terms were taken less, by this part of the walk
};

/// What a policy tells of itself, with the values that are always right.
struct Policy {
  /// It keeps intermediate values of a row.
  static constexpr bool kKeeps = false;
  /// In its first pass over an operand it reads it with `first`, so it may be read where it lies;
  /// and it does not read its output, which may be written where it lies.
  static constexpr bool kDirect = false;
  /// It is used so often that kernels for every length of row are worth their compilation.
  static constexpr bool kOften = false;
  /// It reduces something over the row.
  static constexpr bool kReduces = true;
  /// It reads single elements, and waits for where they are.
  static constexpr bool kReadsElements = false;
  /// It is in stages: see staged.h.
  static constexpr bool kStaged = false;
  /// It is one of a sum: see summed.h.
  static constexpr bool kSummed = false;
};

}  // namespace torchsoftmax::TORCHSOFTMAX_DEVICE
