#pragma once

#include <c10/util/Half.h>

#include <cmath>

struct __half2 {
  c10::Half x, y;
};
inline __half2 __hmax2(const __half2& a, const __half2& b) {
  return {std::fmax(float(a.x), float(b.x)), std::fmax(float(a.y), float(b.y))};
}
