#pragma once

#include <c10/util/BFloat16.h>

#include <cmath>

struct __nv_bfloat162 {
  c10::BFloat16 x, y;
};
inline __nv_bfloat162 __hmax2(const __nv_bfloat162& a, const __nv_bfloat162& b) {
  return {std::fmax(float(a.x), float(b.x)), std::fmax(float(a.y), float(b.y))};
}
