// The fiber runtime: runs a kernel image (hostcuda_abi.h) block after block on the host.
//
// A block's threads run one at a time until they wait or return; a thread that waits keeps its
// fiber (a stack), one that returns hands it to the next. So a kernel in which nobody waits is a
// plain loop. The order of threads, and of blocks, is chosen by hc_set_order: a missing barrier
// shows in one order or another, the more so as shared memory is poisoned before every block.
// A launch that deadlocks or fails an assertion ends with a message, it never hangs.
#include "hostcuda_abi.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if !defined(__x86_64__) || defined(HOSTCUDA_UCONTEXT)
#define USE_UCONTEXT 1
#include <ucontext.h>
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

constexpr int WARP = 32;
constexpr size_t STACK = 256 * 1024, GUARD = 4096;
constexpr int POISON = 0xFF;  // NaN in every floating type, -1 in every signed one

// -- fibers ---------------------------------------------------------------------------------------

struct Fiber {
  char* stack;
#ifdef USE_UCONTEXT
  ucontext_t context;
#else
  void* sp = nullptr;
#endif
  Fiber() {
    stack = static_cast<char*>(mmap(nullptr, STACK + GUARD, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    mprotect(stack, GUARD, PROT_NONE);  // stacks grow down: an overflow must not reach a neighbour
  }
};

void fiber_main();

#ifdef USE_UCONTEXT
ucontext_t scheduler_context;
void reset(Fiber& f) {
  getcontext(&f.context);
  f.context.uc_stack.ss_sp = f.stack + GUARD;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = nullptr;
  makecontext(&f.context, fiber_main, 0);
}
void enter(Fiber& f) { swapcontext(&scheduler_context, &f.context); }
void leave(Fiber& f) { swapcontext(&f.context, &scheduler_context); }
#else
// Saves what a called function must preserve and continues on another stack.
extern "C" void hc_switch(void** from, void* to);
asm(R"(
.text
.type hc_switch,@function
hc_switch:
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
void* scheduler_sp;
void reset(Fiber& f) {
  void** top = reinterpret_cast<void**>(f.stack + GUARD + STACK);
  *--top = nullptr;                                  // no caller
  *--top = reinterpret_cast<void*>(&fiber_main);
  for (int k = 0; k < 6; k++) *--top = nullptr;      // the saved registers
  f.sp = top;
}
void enter(Fiber& f) { hc_switch(&scheduler_sp, f.sp); }
void leave(Fiber& f) { hc_switch(&f.sp, scheduler_sp); }
#endif

// -- the block that runs --------------------------------------------------------------------------

enum Wait { NEW, RUNNING, AT_BARRIER, IN_WARP, DONE };

struct Thread {
  Wait wait;
  unsigned generation;  // of the barrier that it waits at
  Fiber* fiber;
  hc_dim index;
};

struct Warp {
  unsigned present, waiting;           // lanes that exist, lanes that wait in a collective
  unsigned mask[WARP];
  int op[WARP], source[WARP];
  hc_bits value[WARP], result[WARP];
};

struct Block {
  const hc_kernel* kernel;
  void** args;
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::vector<int> order;
  size_t position;                     // in `order`, of the thread that runs
  bool starting;                       // the first round, in which every thread begins
  int live, arrived, line, votes, passed_votes;
  unsigned generation;
  long yields;
  bool failed;
};

hc_state state;
Block block;
std::vector<Fiber*> spare;
std::string message;
int order_choice = 0;
std::mt19937 generator;
std::mutex running;

int current() { return block.order[block.position]; }

void select(size_t position) {
  block.position = position;
  const int n = current();
  state.thread = block.threads[n].index;
  state.lane = n % WARP;
}

// Gives the processor to the scheduler until this thread may go on.
void wait_as(Wait wait) {
  Thread& t = block.threads[current()];
  t.wait = wait;
  leave(*t.fiber);
}

std::string place(const hc_dim& thread) {
  char text[160];
  snprintf(text, sizeof text, "%s, block (%u, %u, %u), thread (%u, %u, %u)", block.kernel->name,
           state.block.x, state.block.y, state.block.z, thread.x, thread.y, thread.z);
  return text;
}

void fail(const char* why) {
  message = std::string(why) + " in " + place(state.thread);
  block.failed = true;
  leave(*block.threads[current()].fiber);
}

void fiber_main() {
  for (;;) {
    block.kernel->call(block.args);
    Thread& t = block.threads[current()];
    t.wait = DONE;
    block.live--;
    if (block.starting && block.position + 1 < block.order.size()) {
      Fiber* const mine = t.fiber;
      select(block.position + 1);
      Thread& next = block.threads[current()];
      next.wait = RUNNING;
      next.fiber = mine;
    } else {
      spare.push_back(t.fiber);
      leave(*t.fiber);
    }
  }
}

int barrier(int line, int value) {
  if (block.arrived && block.line != line) {
    char text[120];
    snprintf(text, sizeof text, "divergent barrier: threads wait in lines %d and %d of the kernel",
             block.line, line);
    fail(text);
  }
  block.line = line;
  block.votes += value != 0;
  if (++block.arrived == static_cast<int>(block.threads.size())) {
    block.passed_votes = block.votes;  // stays until everybody is at the next barrier
    block.arrived = block.votes = 0;
    block.generation++;
    return block.passed_votes;
  }
  block.threads[current()].generation = block.generation;
  wait_as(AT_BARRIER);
  return block.passed_votes;
}

hc_bits reduce(int op, hc_bits a, hc_bits b) {
  switch (op) {
    case HC_ADD: return a + b;
    case HC_AND: return a & b;
    case HC_OR: return a | b;
    case HC_XOR: return a ^ b;
    case HC_MIN_SIGNED: return static_cast<int>(a) < static_cast<int>(b) ? a : b;
    case HC_MAX_SIGNED: return static_cast<int>(a) > static_cast<int>(b) ? a : b;
    case HC_MIN_UNSIGNED: return std::min(a, b);
    default: return std::max(a, b);
  }
}

// Everybody has come: each lane's result goes to a place that only its own next call overwrites.
void complete(Warp& w, unsigned group, int op) {
  hc_bits total = 0, votes = 0;
  bool first = true;
  for (int i = 0; i < WARP; i++) {
    if (!((group >> i) & 1)) continue;
    total = first ? w.value[i] : reduce(op, total, w.value[i]);
    votes |= (w.value[i] & 1) << i;
    first = false;
  }
  for (int i = 0; i < WARP; i++) {
    if (!((group >> i) & 1)) continue;
    if (op == HC_SHUFFLE) {
      const bool there = (group >> (w.source[i] & 31)) & 1;
      w.result[i] = there ? w.value[w.source[i] & 31] : ~0ull;  // undefined on a device
    } else if (op == HC_BALLOT) {
      w.result[i] = votes;
    } else if (op == HC_MATCH) {
      w.result[i] = 0;
      for (int k = 0; k < WARP; k++)
        if (((group >> k) & 1) && w.value[k] == w.value[i]) w.result[i] |= 1ull << k;
    } else {
      w.result[i] = total;
    }
  }
  w.waiting &= ~group;
}

hc_bits warp(unsigned mask, int op, hc_bits value, int source) {
  const int n = current(), lane = n % WARP;
  Warp& w = block.warps[n / WARP];
  if (!((mask >> lane) & 1)) fail("a warp function's mask lacks the calling lane");
  w.mask[lane] = mask;
  w.op[lane] = op;
  w.value[lane] = value;
  w.source[lane] = source;
  w.waiting |= 1u << lane;
  const unsigned group = mask & w.present;
  unsigned here = 0;  // lanes that wait for this very call; others of the group are still elsewhere
  for (int i = 0; i < WARP; i++)
    if ((w.waiting >> i) & 1 && w.mask[i] == mask && w.op[i] == op) here |= 1u << i;
  if ((here & group) == group) {
    complete(w, group, op);
  } else {
    wait_as(IN_WARP);
  }
  return w.result[lane];
}

void yield() {
  if (++block.yields > 1000000) fail("threads sleep, but nothing changes: a spin wait without end");
  wait_as(RUNNING);
}

bool may_run(int n) {
  const Thread& t = block.threads[n];
  switch (t.wait) {
    case AT_BARRIER: return t.generation != block.generation;
    case IN_WARP: return !((block.warps[n / WARP].waiting >> (n % WARP)) & 1);
    case DONE: return false;
    default: return true;
  }
}

void report_deadlock() {
  int at_barrier = 0, in_warp = 0, done = 0;
  hc_dim example{};
  for (const Thread& t : block.threads) {
    at_barrier += t.wait == AT_BARRIER;
    in_warp += t.wait == IN_WARP;
    done += t.wait == DONE;
    if (t.wait == AT_BARRIER || t.wait == IN_WARP) example = t.index;
  }
  char text[200];
  snprintf(text, sizeof text, "deadlock: %d threads wait at a barrier (line %d), %d in a warp "
           "function, %d have returned; for example", at_barrier, block.line, in_warp, done);
  message = std::string(text) + " in " + place(example);
  block.failed = true;
}

void shuffle_order() {
  for (size_t i = block.order.size(); i > 1; i--)
    std::swap(block.order[i - 1], block.order[generator() % i]);
}

void run_block() {
  const int n = static_cast<int>(block.threads.size());
  for (int i = 0; i < n; i++) block.threads[i].wait = NEW;
  for (size_t k = 0; k < block.warps.size(); k++) {
    const int lanes = std::min(WARP, n - static_cast<int>(k) * WARP);
    block.warps[k].present = lanes == WARP ? ~0u : (1u << lanes) - 1;
    block.warps[k].waiting = 0;
  }
  if (order_choice > 0) shuffle_order();
  block.live = n;
  block.arrived = block.votes = 0;
  block.yields = 0;
  block.starting = true;
  while (block.live && !block.failed) {
    bool progress = false;
    for (size_t k = 0; k < block.order.size() && !block.failed; k++) {
      Thread& t = block.threads[block.order[k]];
      if (!may_run(block.order[k])) continue;
      progress = true;
      if (t.wait == NEW) {
        if (spare.empty()) spare.push_back(new Fiber);
        t.fiber = spare.back();
        spare.pop_back();
        reset(*t.fiber);
      }
      t.wait = RUNNING;
      select(k);
      enter(*t.fiber);
      k = block.position;  // a fiber that was handed on has started later threads, too
    }
    block.starting = false;
    if (!progress) report_deadlock();
    if (order_choice > 0) shuffle_order();
  }
  if (!block.failed) return;
  for (Thread& t : block.threads)
    if (t.wait != NEW && t.wait != DONE) spare.push_back(t.fiber);
}

void prepare(const unsigned* size) {
  const int n = static_cast<int>(size[0] * size[1] * size[2]);
  block.threads.assign(n, Thread{});
  block.warps.assign((n + WARP - 1) / WARP, Warp{});
  for (int i = 0; i < n; i++) {
    const unsigned u = static_cast<unsigned>(i);
    block.threads[i].index = {u % size[0], u / size[0] % size[1], u / (size[0] * size[1])};
  }
  block.order.resize(n);
  std::iota(block.order.begin(), block.order.end(), 0);
  if (order_choice < 0) std::reverse(block.order.begin(), block.order.end());
}

// Visits every block once: forwards, backwards, or in steps of a random number prime to the count.
struct BlockOrder {
  uint64_t total, step = 1, at = 0;
  explicit BlockOrder(uint64_t n) : total(n) {
    if (order_choice < 0) step = n - 1, at = n - 1;
    if (order_choice <= 0 || n < 3) return;
    at = generator() % n;
    do step = 1 + generator() % (n - 1); while (std::gcd(step, n) != 1);
  }
  uint64_t next() {
    const uint64_t result = at;
    at = (at + step) % total;
    return result;
  }
};

}  // namespace

// 0 runs threads and blocks forwards, -1 backwards, a positive number in a random order of that seed.
EXPORT void hc_set_order(int order) { order_choice = order; }
EXPORT int hc_get_order() { return order_choice; }

// What went wrong in the last hc_run that returned 1.
EXPORT const char* hc_error() { return message.c_str(); }

// Runs a kernel to its end; `args` points to the values of the arguments. Returns 0, or 1 where it
// deadlocked, diverged or failed an assertion.
EXPORT int hc_run(const hc_kernel* kernel, const unsigned* grid, const unsigned* size,
                  hc_size dynamic_shared, void** args) {
  std::lock_guard<std::mutex> lock(running);
  static std::vector<char> dynamic;
  generator.seed(static_cast<unsigned>(order_choice));
  block.kernel = kernel;
  block.args = args;
  block.failed = false;
  prepare(size);
  dynamic.resize(dynamic_shared + 128);
  state.dynamic_shared = reinterpret_cast<char*>(
      (reinterpret_cast<uintptr_t>(dynamic.data()) + 127) & ~uintptr_t{127});
  state.block_size = {size[0], size[1], size[2]};
  state.grid_size = {grid[0], grid[1], grid[2]};
  state.barrier = barrier;
  state.warp = warp;
  state.yield = yield;
  state.fail = fail;
  *kernel->state = &state;
  const uint64_t total = uint64_t{grid[0]} * grid[1] * grid[2];
  BlockOrder blocks(total);
  for (uint64_t i = 0; i < total && !block.failed; i++) {
    const uint64_t b = blocks.next();
    state.block = {static_cast<unsigned>(b % grid[0]), static_cast<unsigned>(b / grid[0] % grid[1]),
                   static_cast<unsigned>(b / (uint64_t{grid[0]} * grid[1]))};
    if (kernel->shared_begin)
      memset(kernel->shared_begin, POISON,
             static_cast<size_t>(kernel->shared_end - kernel->shared_begin));
    memset(state.dynamic_shared, POISON, dynamic_shared);
    run_block();
  }
  return block.failed;
}
