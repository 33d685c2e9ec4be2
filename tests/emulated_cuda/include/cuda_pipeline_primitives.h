#pragma once
// Copies to shared memory. They are made when they are waited for; until then what will be written
// is nan, so that neither reading too early nor fetching too early goes unseen.

#include "../emulator.h"

inline void __pipeline_memcpy_async(void* to, const void* from, size_t bytes) {
  emulated::copy_later(to, from, bytes);
}
inline void __pipeline_commit() { emulated::end_group_of_copies(); }
inline void __pipeline_wait_prior(size_t groups) { emulated::make_copies(groups); }
