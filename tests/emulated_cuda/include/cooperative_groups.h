#pragma once

namespace cooperative_groups {

struct cluster_group {
  static unsigned block_rank() { return emulated::block_of_cluster(); }
  static unsigned num_blocks() { return emulated::blocks_of_cluster(); }
  static void barrier_arrive() { emulated::arrive_at_cluster(); }
  static void barrier_wait() { emulated::wait_for_cluster(); }
  static void sync() {
    barrier_arrive();
    barrier_wait();
  }
  template <typename T>
  static T* map_shared_rank(T* place, unsigned rank) {
    return reinterpret_cast<T*>(emulated::in_block(reinterpret_cast<std::byte*>(place), rank));
  }
};

inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
