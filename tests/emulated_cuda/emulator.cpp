#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

namespace emulated {
namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 64 * 1024;

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "emulated CUDA: %s\n", what);
  std::abort();
}

#if defined(__x86_64__)
// swapcontext asks the kernel for the signal mask, which takes most of the time.
extern "C" void emulated_switch(void** from, void* to);
asm(R"(
.text
.type emulated_switch, @function
emulated_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

struct Context {
  void* stack_pointer = nullptr;

  void start(std::byte* stack, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(stack + kStack);
    *--top = nullptr;  // where entry would return to: keeps the stack aligned
    *--top = reinterpret_cast<void*>(entry);
    stack_pointer = top - 6;  // what is popped first
    std::memset(stack_pointer, 0, 6 * sizeof(void*));
  }
  void go_to(Context& other) { emulated_switch(&stack_pointer, other.stack_pointer); }
};
#else
struct Context {
  ucontext_t context{};

  void start(std::byte* stack, void (*entry)()) {
    getcontext(&context);
    context.uc_stack.ss_sp = stack;
    context.uc_stack.ss_size = kStack;
    makecontext(&context, entry, 0);
  }
  void go_to(Context& other) { swapcontext(&context, &other.context); }
};
#endif

/// A barrier in two halves.
struct Barrier {
  unsigned expected = 0, arrived = 0, turn = 0;
};

struct Block {
  Barrier barrier;
  bool any[2] = {};
  std::vector<std::byte> memory;
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchanged;  // of each thread
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
};

struct Fiber {
  Context context;
  dim3 thread_index, block_index;
  Block* block;
  unsigned block_number;        // in its cluster
  unsigned warp, lane, number;  // in its block
  unsigned cluster_turn = 0;
  unsigned any_turn = 0;
  std::vector<Copy> copies;               // since the last group
  std::vector<std::vector<Copy>> groups;  // of copies that were not waited for
  bool done = false;
};

/// The fibers of one OS thread.
struct Scheduler {
  Shape shape;
  const std::function<void()>* kernel = nullptr;
  std::vector<Fiber> fibers;
  std::vector<std::unique_ptr<Block>> blocks;  // of the cluster that runs
  Barrier cluster;
  Context main;
  Fiber* running = nullptr;
  std::byte* stacks = nullptr;
  size_t stack_count = 0;
  bool progress = false;
  bool backwards = false;

  ~Scheduler() {
    if (stacks != nullptr) {
      munmap(stacks, stack_count * kStack);
    }
  }

  void reserve(size_t count) {
    if (count <= stack_count) {
      return;
    }
    if (stacks != nullptr) {
      munmap(stacks, stack_count * kStack);
    }
    void* memory = mmap(nullptr, count * kStack, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      fail("no memory for stacks");
    }
    stacks = static_cast<std::byte*>(memory);
    stack_count = count;
  }

  void yield() { running->context.go_to(main); }

  unsigned arrive(Barrier& barrier) {
    const unsigned turn = barrier.turn;
    if (++barrier.arrived == barrier.expected) {
      barrier.arrived = 0;
      ++barrier.turn;
      progress = true;
    }
    return turn;
  }
  void wait(const Barrier& barrier, unsigned turn) {
    while (barrier.turn == turn) {
      yield();
    }
  }

  void run_cluster(unsigned first_block);
};

thread_local Scheduler scheduler;

void entry() {
  (*scheduler.kernel)();
  scheduler.running->done = true;
  scheduler.progress = true;
  scheduler.yield();
  fail("a thread ran on after its end");
}

void Scheduler::run_cluster(unsigned first_block) {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  blocks.resize(shape.cluster);
  fibers.assign(size_t{threads} * shape.cluster, Fiber());
  reserve(fibers.size());
  cluster = {static_cast<unsigned>(fibers.size())};
  for (unsigned b = 0; b < shape.cluster; ++b) {
    blocks[b] = std::make_unique<Block>();
    Block& block = *blocks[b];
    block.barrier.expected = threads;
    block.memory.assign(kStatic + shape.room, std::byte{0xa5});
    block.warps.resize((threads + kWarp - 1) / kWarp);
    for (unsigned warp = 0; warp < block.warps.size(); ++warp) {
      block.warps[warp].expected = std::min(kWarp, threads - warp * kWarp);
    }
    block.exchanged.resize(threads);
    const unsigned number = first_block + b;
    const dim3 index(number % shape.grid.x, number / shape.grid.x % shape.grid.y,
                     number / shape.grid.x / shape.grid.y);
    for (unsigned t = 0; t < threads; ++t) {
      Fiber& fiber = fibers[size_t{b} * threads + t];
      fiber.thread_index = dim3(t % shape.block.x, t / shape.block.x % shape.block.y,
                                t / shape.block.x / shape.block.y);
      fiber.block_index = index;
      fiber.block = &block;
      fiber.block_number = b;
      fiber.number = t;
      fiber.warp = t / kWarp;
      fiber.lane = t % kWarp;
      fiber.context.start(stacks + (size_t{b} * threads + t) * kStack, &entry);
    }
  }
  size_t left = fibers.size();
  while (left > 0) {
    progress = false;
    for (size_t k = 0; k < fibers.size(); ++k) {
      Fiber& fiber = fibers[backwards ? fibers.size() - 1 - k : k];
      if (!fiber.done) {
        running = &fiber;
        threadIdx = fiber.thread_index;
        blockIdx = fiber.block_index;
        main.go_to(fiber.context);
        left -= fiber.done ? 1 : 0;
      }
    }
    if (!progress) {
      fail("threads wait for each other at different barriers");
    }
  }
}

}  // namespace

void run(const Shape& shape, const std::function<void()>& kernel) {
  scheduler.shape = shape;
  scheduler.kernel = &kernel;
  blockDim = shape.block;
  gridDim = shape.grid;
  scheduler.backwards = !scheduler.backwards;  // what has no barrier has no order
  const unsigned count = shape.grid.x * shape.grid.y * shape.grid.z;
  if (shape.grid.x % shape.cluster != 0) {
    fail("a grid that is not whole clusters");
  }
  for (unsigned first = 0; first < count; first += shape.cluster) {
    scheduler.run_cluster(first);
  }
}

unsigned block_of_cluster() { return scheduler.running->block_number; }
unsigned blocks_of_cluster() { return scheduler.shape.cluster; }

void wait_for_warp() {
  Barrier& barrier = scheduler.running->block->warps[scheduler.running->warp];
  scheduler.wait(barrier, scheduler.arrive(barrier));
}
void wait_for_block() {
  Barrier& barrier = scheduler.running->block->barrier;
  scheduler.wait(barrier, scheduler.arrive(barrier));
}
void arrive_at_cluster() {
  Fiber& fiber = *scheduler.running;
  fiber.cluster_turn = scheduler.arrive(scheduler.cluster);
}
void wait_for_cluster() { scheduler.wait(scheduler.cluster, scheduler.running->cluster_turn); }

uint64_t exchange(uint64_t value, unsigned distance) {
  const Fiber& fiber = *scheduler.running;
  fiber.block->exchanged[fiber.number] = value;
  wait_for_warp();
  const unsigned other = fiber.warp * kWarp + (fiber.lane ^ distance);
  const uint64_t result = fiber.block->exchanged[other];
  wait_for_warp();
  return result;
}

bool any_of_block(bool condition) {
  Fiber& fiber = *scheduler.running;
  bool& any = fiber.block->any[fiber.any_turn++ % 2];
  any = any || condition;
  wait_for_block();
  const bool result = any;
  wait_for_block();
  any = false;
  return result;
}

void copy_later(void* to, const void* from, size_t bytes) {
  std::memset(to, 0xff, bytes);
  scheduler.running->copies.push_back({to, from, bytes});
}
void end_group_of_copies() {
  Fiber& fiber = *scheduler.running;
  fiber.groups.push_back(std::move(fiber.copies));
  fiber.copies.clear();
}
void make_copies(size_t groups_left) {
  auto& groups = scheduler.running->groups;
  while (groups.size() > groups_left) {
    for (const Copy& copy : groups.front()) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    }
    groups.erase(groups.begin());
  }
}

std::byte* memory_of_block() { return scheduler.running->block->memory.data(); }

std::byte* in_block(std::byte* place, unsigned rank) {
  return scheduler.blocks[rank]->memory.data() + (place - memory_of_block());
}

}  // namespace emulated
