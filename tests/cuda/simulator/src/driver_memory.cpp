// Device memory (guarded host memory), pinned memory, pools.
//
// An allocation ends, up to 15 bytes, at a page that must not be touched: a kernel that writes
// beyond it dies at once. The bytes between, and those in front of it, hold a pattern that is
// checked when it is freed. New and freed memory is poisoned; freed memory is kept for a while, so
// that a late reader finds poison, and a late writer is reported.
#include <sys/mman.h>

#include <cstring>

#include "driver.h"

static constexpr size_t PAGE = 4096, ALIGN = 16, FRONT = 64;
static constexpr size_t KEPT_BLOCKS = 64, KEPT_BYTES = size_t{128} << 20;
static constexpr size_t CHECKED = size_t{1} << 20;  // bytes of a block that are poisoned and checked
static constexpr int PATTERN = 0xA5;

// Freed blocks by mapped size, oldest first: they are used again when there are enough.
// (Never destroyed: memory may be freed while the process ends.)
static auto& kept = *new std::map<size_t, std::deque<Block>>;
static auto& kept_order = *new std::deque<size_t>;  // mapped sizes, as blocks were freed
static auto& used_again = *new std::map<size_t, size_t>;  // entries of `kept_order` to pass over
static size_t kept_bytes;

static size_t rounded(size_t n, size_t to) { return (n + to - 1) / to * to; }

static size_t front_of(const Block& b) {
  return std::min<size_t>(FRONT, static_cast<size_t>(b.user - b.start));
}

static bool all_are(const char* p, size_t n, int value) {
  for (size_t k = 0; k < n; k++)
    if (static_cast<unsigned char>(p[k]) != value) return false;
  return true;
}

static std::string named(const Block& b) {
  char text[100];
  snprintf(text, sizeof text, "%zu bytes at %p of device %d", b.size,
           static_cast<void*>(b.user), b.device);
  return text;
}

static void check_edges(const Block& b) {
  const char* end = b.user + b.size;
  if (!all_are(end, static_cast<size_t>(b.start + b.mapped - end), PATTERN))
    violation("something was written behind " + named(b));
  if (!all_are(b.user - front_of(b), front_of(b), PATTERN))
    violation("something was written in front of " + named(b));
}

static void unmap(const Block& b) { munmap(b.start, b.mapped + PAGE); }

static void forget(Block b) {
  kept_bytes -= b.mapped;
  if (!all_are(b.user, std::min(b.size, CHECKED), POISON))
    violation("something was written into memory after it was freed: " + named(b));
}

static bool take_kept(size_t mapped, Block* out) {
  auto found = kept.find(mapped);
  const bool reuse_at_once = driver().set.null_launches;
  if (found == kept.end() || found->second.empty()) return false;
  if (!reuse_at_once && found->second.size() < 8) return false;
  *out = found->second.front();
  found->second.pop_front();
  used_again[mapped]++;
  forget(*out);
  return true;
}

static void keep(const Block& b) {
  kept[b.mapped].push_back(b);
  kept_order.push_back(b.mapped);
  kept_bytes += b.mapped;
  while (kept_order.size() > KEPT_BLOCKS || kept_bytes > KEPT_BYTES) {
    const size_t mapped = kept_order.front();
    kept_order.pop_front();
    if (used_again[mapped]) {
      used_again[mapped]--;
      continue;
    }
    auto& oldest = kept[mapped];
    const Block gone = oldest.front();
    oldest.pop_front();
    forget(gone);
    unmap(gone);
  }
}

static Block* make_block(size_t size, int device, Kind kind, Pool* pool) {
  Block b{};
  b.mapped = rounded(rounded(size, ALIGN) + FRONT, PAGE);
  if (!take_kept(b.mapped, &b)) {
    void* p = mmap(nullptr, b.mapped + PAGE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    b.start = static_cast<char*>(p);
    mprotect(b.start + b.mapped, PAGE, PROT_NONE);
  }
  b.size = size;
  b.device = device;
  b.kind = kind;
  b.pool = pool;
  b.registered = b.ordered = false;
  b.user = b.start + b.mapped - rounded(size, ALIGN);
  b.id = static_cast<unsigned long long>(++driver().next_id);
  memset(b.user - front_of(b), PATTERN, front_of(b));
  memset(b.user, POISON, std::min(size, CHECKED));
  memset(b.user + size, PATTERN, static_cast<size_t>(b.start + b.mapped - b.user) - size);
  return &(driver().blocks[reinterpret_cast<uintptr_t>(b.user)] = b);
}

Block* block_at(const void* pointer) {
  const auto p = reinterpret_cast<uintptr_t>(pointer);
  auto found = driver().blocks.upper_bound(p);
  if (found == driver().blocks.begin()) return nullptr;
  --found;
  Block& b = found->second;
  return p < found->first + std::max<size_t>(b.size, 1) ? &b : nullptr;
}

// Whether [pointer, pointer + size) is memory that may be copied: within one live allocation, or
// the program's own.
bool may_be_copied(const void* pointer, size_t size, const Block* b) {
  if (b) return static_cast<const char*>(pointer) + size <= b->user + b->size;
  for (const auto& [_, blocks] : kept)
    for (const Block& k : blocks)
      if (pointer >= k.start && pointer < k.start + k.mapped + PAGE) return false;  // freed
  return pointer != nullptr;
}

static uint64_t used_bytes(int device) {
  uint64_t sum = driver().contexts[device].default_pool.used;
  for (const Pool* p : driver().pools)
    if (p->kind == Kind::device && p->device == device) sum += p->used;
  return sum;
}

static void account(Pool* pool, int64_t change) {
  pool->used += static_cast<uint64_t>(change);
  if (change > 0) {
    pool->used_high = std::max(pool->used_high, pool->used);
    pool->reserved = std::max(pool->reserved, rounded(pool->used, size_t{2} << 20));
    pool->reserved_high = std::max(pool->reserved_high, pool->reserved);
    driver().peak = std::max(driver().peak, static_cast<int64_t>(pool->used));
  }
}

// Device memory of a pool, or null where memory, real or injected, ends.
static Block* allocate(size_t size, int device, Pool* pool) {
  int64_t& budget = driver().set.fail_after_bytes;
  if (pool->kind == Kind::device) {
    if (budget >= 0 && static_cast<int64_t>(size) > budget) return nullptr;
    const auto total = static_cast<uint64_t>(driver().set.total_memory);
    if (used_bytes(device) + size > total) finish_device(device);  // frees that are under way
    if (used_bytes(device) + size > total) return nullptr;
  }
  Block* b = make_block(size, device, pool->kind, pool);
  if (!b) return nullptr;
  if (budget >= 0 && pool->kind == Kind::device) budget -= static_cast<int64_t>(size);
  account(pool, static_cast<int64_t>(size));
  return b;
}

static CUresult release(CUdeviceptr pointer) {
  auto found = driver().blocks.find(pointer);
  if (found == driver().blocks.end()) return CUDA_ERROR_INVALID_VALUE;
  const Block b = found->second;
  check_edges(b);
  if (b.pool) account(b.pool, -static_cast<int64_t>(b.size));
  driver().blocks.erase(found);
  memset(b.user, POISON, std::min(b.size, CHECKED));
  keep(b);
  return CUDA_SUCCESS;
}

GraphMemory::~GraphMemory() {
  for (const CUdeviceptr p : pointers) release(p);
}

// -- allocation -----------------------------------------------------------------------------------

API cuMemAlloc_v2(CUdeviceptr* out, size_t size) {
  ENTER NEED_CONTEXT NEED(size, CUDA_ERROR_INVALID_VALUE)
  if (const CUresult refused = refuse_while_capturing()) return refused;
  const int device = current_device();
  const Block* b = allocate(size, device, &driver().contexts[device].default_pool);
  NEED(b, CUDA_ERROR_OUT_OF_MEMORY)
  *out = reinterpret_cast<CUdeviceptr>(b->user);
  return CUDA_SUCCESS;
}

API cuMemFree_v2(CUdeviceptr pointer) {
  ENTER NEED_CONTEXT
  if (!pointer) return CUDA_SUCCESS;
  if (const CUresult refused = refuse_while_capturing()) return refused;
  finish_device(current_device());
  return release(pointer);
}

static CUresult allocate_async(CUdeviceptr* out, size_t size, Pool* pool, Stream* s) {
  const int device = pool->kind == Kind::device ? pool->device : s->device;
  Block* b = allocate(size, device, pool);
  NEED(b, CUDA_ERROR_OUT_OF_MEMORY)
  b->ordered = true;
  *out = reinterpret_cast<CUdeviceptr>(b->user);
  if (!s->capture) return CUDA_SUCCESS;  // usable in the stream's order; poisoned until written
  s->capture->graph->memory->pointers.push_back(*out);
  char* const user = b->user;
  submit(s, CU_GRAPH_NODE_TYPE_MEM_ALLOC,
         [=] { memset(user, POISON, std::min(size, CHECKED)); });
  return CUDA_SUCCESS;
}

API cuMemAllocFromPoolAsync(CUdeviceptr* out, size_t size, CUmemoryPool pool, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(size, CUDA_ERROR_INVALID_VALUE)
  return allocate_async(out, size, pool, s);
}

API cuMemAllocAsync(CUdeviceptr* out, size_t size, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  NEED(size, CUDA_ERROR_INVALID_VALUE)
  return allocate_async(out, size, driver().contexts[s->device].current_pool, s);
}

API cuMemFreeAsync(CUdeviceptr pointer, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  const auto found = driver().blocks.find(pointer);
  NEED(found != driver().blocks.end(), CUDA_ERROR_INVALID_VALUE)
  if (s->capture) {
    auto& mine = s->capture->graph->memory->pointers;
    NEED(std::find(mine.begin(), mine.end(), pointer) != mine.end(), CUDA_ERROR_INVALID_VALUE)
    char* const user = found->second.user;
    const size_t size = found->second.size;
    submit(s, CU_GRAPH_NODE_TYPE_MEM_FREE,
           [=] { memset(user, POISON, std::min(size, CHECKED)); });
  } else {
    submit(s, CU_GRAPH_NODE_TYPE_MEM_FREE, [=] {
      if (release(pointer)) violation("memory was freed twice");
    });
  }
  return CUDA_SUCCESS;
}

API cuMemHostAlloc(void** out, size_t size, unsigned) {
  ENTER NEED_CONTEXT NEED(size, CUDA_ERROR_INVALID_VALUE)
  const Block* b = make_block(size, current_device(), Kind::pinned, nullptr);
  NEED(b, CUDA_ERROR_OUT_OF_MEMORY)
  *out = b->user;
  return CUDA_SUCCESS;
}

API cuMemAllocHost_v2(void** out, size_t size) { return cuMemHostAlloc(out, size, 0); }

API cuMemFreeHost(void* pointer) {
  ENTER
  if (!pointer) return CUDA_SUCCESS;
  const Block* b = block_at(pointer);
  NEED(b && b->kind == Kind::pinned && !b->registered && b->user == pointer,
       CUDA_ERROR_INVALID_VALUE)
  finish_device(-1);
  return release(reinterpret_cast<CUdeviceptr>(pointer));
}

API cuMemHostRegister_v2(void* pointer, size_t size, unsigned) {
  ENTER NEED_CONTEXT NEED(size && !block_at(pointer), CUDA_ERROR_INVALID_VALUE)
  Block b{};
  b.user = static_cast<char*>(pointer);
  b.size = size;
  b.kind = Kind::pinned;
  b.registered = true;
  driver().blocks[reinterpret_cast<uintptr_t>(pointer)] = b;
  return CUDA_SUCCESS;
}

API cuMemHostUnregister(void* pointer) {
  ENTER
  const auto found = driver().blocks.find(reinterpret_cast<uintptr_t>(pointer));
  NEED(found != driver().blocks.end() && found->second.registered, CUDA_ERROR_INVALID_VALUE)
  finish_device(-1);
  driver().blocks.erase(found);
  return CUDA_SUCCESS;
}

API cuMemHostGetDevicePointer_v2(CUdeviceptr* out, void* pointer, unsigned) {
  ENTER NEED(block_at(pointer), CUDA_ERROR_INVALID_VALUE)
  *out = reinterpret_cast<CUdeviceptr>(pointer);
  return CUDA_SUCCESS;
}

API cuMemGetInfo_v2(size_t* free, size_t* total) {
  ENTER NEED_CONTEXT
  *total = static_cast<size_t>(driver().set.total_memory);
  *free = *total - std::min<size_t>(*total, used_bytes(current_device()));
  return CUDA_SUCCESS;
}

API cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* size, CUdeviceptr pointer) {
  ENTER
  const Block* b = block_at(reinterpret_cast<void*>(pointer));
  NEED(b, CUDA_ERROR_NOT_FOUND)
  if (base) *base = reinterpret_cast<CUdeviceptr>(b->user);
  if (size) *size = b->size;
  return CUDA_SUCCESS;
}

static bool attribute_of(const Block* b, CUdeviceptr pointer, int attribute, void* out) {
  switch (attribute) {
    case CU_POINTER_ATTRIBUTE_CONTEXT:
      *static_cast<CUcontext*>(out) = &driver().contexts[b->device];
      return true;
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE:
      *static_cast<int*>(out) = b->kind == Kind::device ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST;
      return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
    case CU_POINTER_ATTRIBUTE_HOST_POINTER:
      *static_cast<CUdeviceptr*>(out) = pointer;
      return attribute == CU_POINTER_ATTRIBUTE_DEVICE_POINTER || b->kind == Kind::pinned;
    case CU_POINTER_ATTRIBUTE_BUFFER_ID:
      *static_cast<unsigned long long*>(out) = b->id;
      return true;
    case CU_POINTER_ATTRIBUTE_IS_MANAGED:
      *static_cast<int*>(out) = 0;
      return true;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL:
      *static_cast<int*>(out) = b->device;
      return true;
    case CU_POINTER_ATTRIBUTE_RANGE_START_ADDR:
      *static_cast<CUdeviceptr*>(out) = reinterpret_cast<CUdeviceptr>(b->user);
      return true;
    case CU_POINTER_ATTRIBUTE_RANGE_SIZE:
      *static_cast<size_t*>(out) = b->size;
      return true;
    case CU_POINTER_ATTRIBUTE_MAPPED:
      *static_cast<int*>(out) = 1;
      return true;
    case CU_POINTER_ATTRIBUTE_MEMPOOL_HANDLE:
      *static_cast<CUmemoryPool*>(out) = b->pool;
      return true;
    default:
      return false;
  }
}

API cuPointerGetAttribute(void* out, int attribute, CUdeviceptr pointer) {
  ENTER
  const Block* b = block_at(reinterpret_cast<void*>(pointer));
  NEED(b && attribute_of(b, pointer, attribute, out), CUDA_ERROR_INVALID_VALUE)
  return CUDA_SUCCESS;
}

// Unlike its singular, this one answers for any pointer: with zeros where there is nothing to say.
API cuPointerGetAttributes(unsigned count, int* attributes, void** out, CUdeviceptr pointer) {
  ENTER
  const Block* b = block_at(reinterpret_cast<void*>(pointer));
  for (unsigned k = 0; k < count; k++) {
    const int a = attributes[k];
    if (b && attribute_of(b, pointer, a, out[k])) continue;
    const bool is_int = a == CU_POINTER_ATTRIBUTE_MEMORY_TYPE || a == CU_POINTER_ATTRIBUTE_MAPPED ||
                        a == CU_POINTER_ATTRIBUTE_IS_MANAGED ||
                        a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
    if (is_int) {
      *static_cast<int*>(out[k]) = a == CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL ? -2 : 0;
    } else {
      *static_cast<void**>(out[k]) = nullptr;
    }
  }
  return CUDA_SUCCESS;
}

// -- pools ----------------------------------------------------------------------------------------

API cuDeviceGetDefaultMemPool(CUmemoryPool* out, CUdevice device) {
  ENTER NEED(device >= 0 && device < driver().set.devices, CUDA_ERROR_INVALID_DEVICE)
  *out = &driver().contexts[device].default_pool;
  return CUDA_SUCCESS;
}

API cuDeviceGetMemPool(CUmemoryPool* out, CUdevice device) {
  ENTER NEED(device >= 0 && device < driver().set.devices, CUDA_ERROR_INVALID_DEVICE)
  *out = driver().contexts[device].current_pool;
  return CUDA_SUCCESS;
}

API cuDeviceSetMemPool(CUdevice device, CUmemoryPool pool) {
  ENTER NEED(device >= 0 && device < driver().set.devices, CUDA_ERROR_INVALID_DEVICE)
  driver().contexts[device].current_pool = pool;
  return CUDA_SUCCESS;
}

API cuMemGetDefaultMemPool(CUmemoryPool* out, CUmemLocation* where, int) {
  if (where->type == CU_MEM_LOCATION_TYPE_DEVICE) return cuDeviceGetDefaultMemPool(out, where->id);
  ENTER
  *out = &driver().host_pool;
  return CUDA_SUCCESS;
}

API cuMemGetMemPool(CUmemoryPool* out, CUmemLocation* where, int type) {
  if (where->type == CU_MEM_LOCATION_TYPE_DEVICE) return cuDeviceGetMemPool(out, where->id);
  return cuMemGetDefaultMemPool(out, where, type);
}

API cuMemPoolCreate(CUmemoryPool* out, const CUmemPoolProps* properties) {
  ENTER
  *out = new Pool;
  const bool device = properties->location.type == CU_MEM_LOCATION_TYPE_DEVICE;
  (*out)->kind = device ? Kind::device : Kind::pinned;
  (*out)->device = device ? properties->location.id : 0;
  driver().pools.insert(*out);
  return CUDA_SUCCESS;
}

API cuMemPoolDestroy(CUmemoryPool pool) {
  ENTER NEED(driver().pools.erase(pool), CUDA_ERROR_INVALID_VALUE)
  for (auto& [_, b] : driver().blocks)
    if (b.pool == pool) b.pool = nullptr;
  for (Context& c : driver().contexts)
    if (c.current_pool == pool) c.current_pool = &c.default_pool;
  delete pool;
  return CUDA_SUCCESS;
}

API cuMemPoolTrimTo(CUmemoryPool pool, size_t least) {
  ENTER
  pool->reserved = std::max<uint64_t>(rounded(pool->used, size_t{2} << 20),
                                      std::min<uint64_t>(pool->reserved, least));
  return CUDA_SUCCESS;
}

API cuMemPoolSetAttribute(CUmemoryPool pool, int attribute, void* value) {
  ENTER
  if (attribute >= 1 && attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES) {
    pool->reuse[attribute] = *static_cast<int*>(value);
  } else if (attribute == CU_MEMPOOL_ATTR_RELEASE_THRESHOLD) {
    pool->threshold = *static_cast<uint64_t*>(value);
  } else if (attribute == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH) {
    pool->reserved_high = pool->reserved;
  } else if (attribute == CU_MEMPOOL_ATTR_USED_MEM_HIGH) {
    pool->used_high = pool->used;
  } else {
    return CUDA_ERROR_INVALID_VALUE;
  }
  return CUDA_SUCCESS;
}

API cuMemPoolGetAttribute(CUmemoryPool pool, int attribute, void* value) {
  ENTER
  auto* wide = static_cast<uint64_t*>(value);
  switch (attribute) {
    case CU_MEMPOOL_ATTR_RELEASE_THRESHOLD: *wide = pool->threshold; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT: *wide = pool->reserved; break;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH: *wide = pool->reserved_high; break;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT: *wide = pool->used; break;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH: *wide = pool->used_high; break;
    default:
      NEED(attribute >= 1 && attribute <= CU_MEMPOOL_ATTR_REUSE_ALLOW_INTERNAL_DEPENDENCIES,
           CUDA_ERROR_INVALID_VALUE)
      *static_cast<int*>(value) = pool->reuse[attribute];
  }
  return CUDA_SUCCESS;
}

API cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc* wanted, size_t count) {
  ENTER
  for (size_t k = 0; k < count; k++) {
    const int device = wanted[k].location.id;
    NEED(device != pool->device || wanted[k].flags, CUDA_ERROR_INVALID_VALUE)  // its own stays
    NEED(device == pool->device || driver().set.peers, CUDA_ERROR_INVALID_DEVICE)
    if (wanted[k].flags) pool->readers.insert(device);
    if (!wanted[k].flags) pool->readers.erase(device);
  }
  return CUDA_SUCCESS;
}

static bool is_reader(const Pool* pool, int device) {
  return pool->kind == Kind::pinned || pool->device == device || pool->readers.count(device);
}

API cuMemPoolGetAccess(int* flags, CUmemoryPool pool, CUmemLocation* where) {
  ENTER
  *flags = is_reader(pool, where->id) ? 3 : 0;  // reading and writing, or neither
  return CUDA_SUCCESS;
}

bool can_reach(int device, const void* pointer) {
  const Block* b = block_at(pointer);
  if (!b || b->kind == Kind::pinned || b->device == device) return true;
  if (b->ordered && b->pool) return is_reader(b->pool, device);
  return driver().contexts[device].peers.count(b->device);
}
