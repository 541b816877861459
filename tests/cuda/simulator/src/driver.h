// The simulated driver's state, shared by its files.
//
//   driver_device.cpp   start, devices, contexts, settings, look-up of functions
//   driver_memory.cpp   device and pinned memory, pools
//   driver_copy.cpp     copies, fills
//   driver_stream.cpp   streams, events, and in which order work runs
//   driver_graph.cpp    capture, graphs
//   driver_module.cpp   images, kernels, launches
//
// One lock guards everything. Work that a stream is given runs at once, or, in deferred mode, when
// somebody waits for it (see driver_stream.cpp).
#pragma once

#include <cstdio>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "cuda_api.h"
#include "hostcuda_abi.h"

#define EXPORT extern "C" __attribute__((visibility("default")))
#define API EXPORT CUresult

using Work = std::function<void()>;

// -- work in order --------------------------------------------------------------------------------

// One piece of work of a stream.
struct Op {
  Stream* stream;
  Work work;
  std::vector<std::shared_ptr<Op>> after;  // of other streams; its own stream's order is implied
  bool done = false;
};
using OpPtr = std::shared_ptr<Op>;

struct Capture {
  Graph* graph;
  Stream* origin;
  int mode;
  std::thread::id thread;
  unsigned long long id;
  bool invalid = false;
  std::set<Stream*> streams;
};

struct Stream {
  int device = 0;
  unsigned flags = 0;
  int priority = 0;
  unsigned long long id = 0;
  bool legacy = false, destroyed = false;
  std::deque<OpPtr> queue;
  OpPtr last;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> tail;  // what the next captured node comes after
};

// What cuEventRecord leaves behind.
struct Record {
  OpPtr op;
  double milliseconds = 0;
  std::shared_ptr<Capture> capture;
  std::vector<Node*> nodes;
};

struct Event {
  unsigned flags;
  std::shared_ptr<Record> record;
};

// -- memory ---------------------------------------------------------------------------------------

enum class Kind { device, pinned };

struct Pool {
  int device = 0;
  Kind kind = Kind::device;
  uint64_t threshold = 0, used = 0, used_high = 0, reserved = 0, reserved_high = 0;
  int reuse[4] = {1, 1, 1, 1};
  std::set<int> readers;  // other devices that may use its memory
};

struct Block {
  char* start;    // of the mapping
  size_t mapped;  // without the guard page
  char* user;
  size_t size;
  int device;
  Kind kind;
  Pool* pool;
  bool registered = false;  // the user's own memory, pinned by cuMemHostRegister
  bool ordered = false;     // allocated in the order of a stream: the pool says who may use it
  unsigned long long id = 0;
};

// Memory of a graph's allocation nodes: lives as long as the graph or something made from it.
struct GraphMemory {
  std::vector<CUdeviceptr> pointers;
  ~GraphMemory();
};

// -- programs and graphs --------------------------------------------------------------------------

struct Module {
  void* library;
  int device;
  std::map<std::string, Function*> functions;
};

struct Function {
  const hc_kernel* kernel;
  Module* module;
  int dynamic_limit = 48 * 1024;
};

// A launch with copies of its arguments.
struct Launch {
  Function* function;
  unsigned grid[3], block[3], shared;
  std::vector<char> values;
  std::vector<size_t> offsets;
  std::vector<void*> pointers;  // to the values, for those who ask for a node's parameters
  void run() const;
};

struct Node {
  int type;
  Work work;
  std::vector<Node*> after;
  std::shared_ptr<Launch> launch;  // of kernel nodes
};

struct Graph {
  std::vector<std::unique_ptr<Node>> nodes;
  std::shared_ptr<GraphMemory> memory = std::make_shared<GraphMemory>();
  unsigned long long id = 0;
};

struct ExecNode {
  int type;
  Work work;
  std::vector<int> after;
  const Node* origin;
};

struct GraphExec {
  std::vector<ExecNode> nodes;
  std::shared_ptr<GraphMemory> memory;
};

struct Context {
  int device;
  Stream legacy, per_thread;
  Pool default_pool;
  Pool* current_pool = nullptr;
  std::set<int> peers;
};

// -- everything -----------------------------------------------------------------------------------

constexpr int MAX_DEVICES = 16;
constexpr int POISON = 0xFF;  // NaN in every floating type, -1 in every signed one

struct Settings {
  int64_t devices = 1, capability = 90, total_memory = int64_t{8} << 30, driver_version = 13000;
  int64_t units = 4;               // multiprocessors of a device
  int64_t init_error = 0;          // what cuInit returns
  int64_t fail_after_bytes = -1;   // allocations beyond so many more bytes fail; -1: none
  int64_t fail_launch = 0;         // the n-th launch from now fails while it runs
  int64_t fail_code = CUDA_ERROR_LAUNCH_FAILED;
  int64_t peers = 1;               // devices can reach each other's memory
  int64_t null_launches = 0;       // launches and graph launches do nothing
  int64_t deferred = 0;            // work waits for a synchronisation
  int64_t seed = 0;                // and then runs in this order: see driver_stream.cpp
};

struct Driver {
  std::recursive_mutex lock;
  Settings set;
  bool started = false;
  CUresult sticky = CUDA_SUCCESS;  // an asynchronous failure: every later call returns it
  std::string message;             // the last thing that was found wrong
  int64_t violations = 0, launches = 0, graph_launches = 0, peak = 0, next_id = 0;
  Context contexts[MAX_DEVICES];
  Pool host_pool;
  std::set<Pool*> pools;           // made by cuMemPoolCreate
  std::set<Stream*> streams;       // made by cuStreamCreate; ends with those that still have work
  std::set<Event*> events;
  std::set<Module*> modules;
  std::set<Function*> functions;
  std::set<Graph*> graphs;
  std::set<GraphExec*> execs;
  std::map<uintptr_t, Block> blocks;
  std::set<std::shared_ptr<Capture>> captures;
  std::mt19937 random{0};
  Driver();
};

Driver& driver();

// The calling thread's current device, or -1.
int current_device();
CUresult set_current_device(int device);

// The stream of a handle: 0 and 1 are the device's legacy stream, 2 its per-thread one. Null if the
// handle is none.
Stream* stream_of(CUstream handle);

// Gives a stream work; a capturing stream makes a node of `type` of it instead.
Node* submit(Stream* stream, int type, Work work, std::shared_ptr<Launch> launch = nullptr);
// Runs work until an op, a stream, or everything of a device (-1: of all) is done.
void finish(const OpPtr& op);
void finish_stream(Stream* stream);
void finish_device(int device);
// Runs one piece of work that may run, of any stream. False if there is none.
bool step();

// The error of a call that waits for the device, where one is being captured by this thread or, in
// the global mode, by any: that breaks the capture.
CUresult refuse_while_capturing();

// The allocation that a pointer is in, or null.
Block* block_at(const void* pointer);
// Whether `size` bytes from a pointer are within one allocation, or the program's own.
bool may_be_copied(const void* pointer, size_t size, const Block* block);
// Whether kernels of a device may use what a pointer points to.
bool can_reach(int device, const void* pointer);

// Notes something that a correct program does not do, and prints it.
void violation(const std::string& what);

#define ENTER                                                    \
  std::lock_guard<std::recursive_mutex> guard(driver().lock);    \
  if (!driver().started) return CUDA_ERROR_NOT_INITIALIZED;      \
  if (driver().sticky) return driver().sticky;
#define NEED_CONTEXT \
  if (current_device() < 0) return CUDA_ERROR_INVALID_CONTEXT;
#define NEED_STREAM(name, handle)                      \
  Stream* const name = stream_of(handle);              \
  if (!name) return current_device() < 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_ERROR_INVALID_HANDLE;
#define NEED(condition, error) \
  if (!(condition)) return error;
