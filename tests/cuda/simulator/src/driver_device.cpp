// Start, devices, contexts, settings and counters, and the look-up of the driver's functions.
#include <dlfcn.h>

#include <cstring>

#include "driver.h"

Driver::Driver() {
  for (int k = 0; k < MAX_DEVICES; k++) {
    Context& c = contexts[k];
    c.device = k;
    c.legacy.device = c.per_thread.device = c.default_pool.device = k;
    c.legacy.legacy = true;
    c.legacy.id = ++next_id;
    c.per_thread.id = ++next_id;
    c.current_pool = &c.default_pool;
  }
  host_pool.kind = Kind::pinned;
}

Driver& driver() {
  static Driver* one = new Driver;  // never destroyed: threads may outlive static destructors
  return *one;
}

void violation(const std::string& what) {
  driver().violations++;
  driver().message = what;
  fprintf(stderr, "simulated CUDA: %s\n", what.c_str());
}

static thread_local std::vector<int> current_stack;

int current_device() { return current_stack.empty() ? -1 : current_stack.back(); }

CUresult set_current_device(int device) {
  if (!current_stack.empty()) current_stack.pop_back();
  if (device >= 0) current_stack.push_back(device);
  return CUDA_SUCCESS;
}

static bool is_device(int d) { return d >= 0 && d < driver().set.devices; }

// -- settings and counters ------------------------------------------------------------------------

static std::map<std::string, int64_t*> settings() {
  Settings& s = driver().set;
  return {{"devices", &s.devices}, {"capability", &s.capability},
          {"total_memory", &s.total_memory}, {"driver_version", &s.driver_version},
          {"units", &s.units}, {"init_error", &s.init_error},
          {"fail_after_bytes", &s.fail_after_bytes}, {"fail_launch", &s.fail_launch},
          {"fail_code", &s.fail_code}, {"peers", &s.peers}, {"null_launches", &s.null_launches},
          {"deferred", &s.deferred}, {"seed", &s.seed}};
}

// Changes a setting; 1 if there is no such.
EXPORT int simulator_set(const char* name, int64_t value) {
  std::lock_guard<std::recursive_mutex> guard(driver().lock);
  const auto all = settings();
  const auto found = all.find(name);
  if (found == all.end()) return 1;
  if (!strcmp(name, "deferred") || !strcmp(name, "seed")) finish_device(-1);
  *found->second = value;
  if (!strcmp(name, "seed")) driver().random.seed(static_cast<unsigned>(value));
  return 0;
}

// A setting or a count of what is alive; -1 if there is no such.
EXPORT int64_t simulator_get(const char* name) {
  Driver& d = driver();
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  const std::string key = name;
  int64_t device = 0, pinned = 0, bytes = 0, waiting = 0, living = 0;
  for (const auto& [_, b] : d.blocks) {
    (b.kind == Kind::device ? device : pinned) += 1;
    if (b.kind == Kind::device) bytes += static_cast<int64_t>(b.size);
  }
  for (Stream* s : d.streams) {
    waiting += static_cast<int64_t>(s->queue.size());
    living += !s->destroyed;
  }
  for (Context& c : d.contexts)
    waiting += static_cast<int64_t>(c.legacy.queue.size() + c.per_thread.queue.size());
  const std::map<std::string, int64_t> counts = {
      {"allocations", device}, {"pinned", pinned}, {"bytes", bytes}, {"peak_bytes", d.peak},
      {"waiting", waiting}, {"streams", living}, {"events", d.events.size()},
      {"modules", d.modules.size()}, {"graphs", d.graphs.size()}, {"graph_execs", d.execs.size()},
      {"pools", d.pools.size()}, {"launches", d.launches}, {"graph_launches", d.graph_launches},
      {"violations", d.violations}, {"sticky", d.sticky}};
  const auto found = counts.find(key);
  if (found != counts.end()) return found->second;
  const auto all = settings();
  const auto setting = all.find(key);
  return setting == all.end() ? -1 : *setting->second;
}

EXPORT const char* simulator_message() { return driver().message.c_str(); }

// Forgets asynchronous errors, injected failures and violations; what is waiting runs.
EXPORT void simulator_reset() {
  Driver& d = driver();
  std::lock_guard<std::recursive_mutex> guard(d.lock);
  d.set.fail_after_bytes = -1;
  d.set.fail_launch = d.set.init_error = 0;
  finish_device(-1);
  d.sticky = CUDA_SUCCESS;
  d.violations = 0;
  d.message.clear();
}

// -- start and devices ----------------------------------------------------------------------------

API cuInit(unsigned) {
  std::lock_guard<std::recursive_mutex> guard(driver().lock);
  NEED(!driver().set.init_error, static_cast<CUresult>(driver().set.init_error))
  NEED(driver().set.devices > 0, CUDA_ERROR_NO_DEVICE)
  driver().started = true;
  return CUDA_SUCCESS;
}

API cuDriverGetVersion(int* version) {
  *version = static_cast<int>(driver().set.driver_version);
  return CUDA_SUCCESS;
}

API cuDeviceGetCount(int* count) {
  ENTER
  *count = static_cast<int>(driver().set.devices);
  return CUDA_SUCCESS;
}

API cuDeviceGet(CUdevice* device, int ordinal) {
  ENTER NEED(is_device(ordinal), CUDA_ERROR_INVALID_DEVICE)
  *device = ordinal;
  return CUDA_SUCCESS;
}

API cuDeviceGetName(char* name, int size, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  snprintf(name, static_cast<size_t>(size), "Simulated GPU");
  return CUDA_SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  *bytes = static_cast<size_t>(driver().set.total_memory);
  return CUDA_SUCCESS;
}

API cuDeviceGetUuid_v2(CUuuid* uuid, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  memset(uuid, 0, sizeof *uuid);
  uuid->bytes[0] = static_cast<char>(device + 1);
  return CUDA_SUCCESS;
}

API cuDeviceGetPCIBusId(char* text, int size, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  snprintf(text, static_cast<size_t>(size), "0000:%02X:00.0", device + 1);
  return CUDA_SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  const int capability = static_cast<int>(driver().set.capability);
  const std::map<int, int> known = {
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_X, 1024}, {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Y, 1024},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCK_DIM_Z, 64}, {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, 0x7fffffff},
      {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535}, {CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, 227 << 10},
      {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10},
      {CU_DEVICE_ATTRIBUTE_RESERVED_SHARED_MEMORY_PER_BLOCK, 1 << 10},
      {CU_DEVICE_ATTRIBUTE_TOTAL_CONSTANT_MEMORY, 64 << 10}, {CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, 65536},
      {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR, 65536},
      {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000}, {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
      {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
      {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 60 << 20},
      {CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048},
      {CU_DEVICE_ATTRIBUTE_MAX_BLOCKS_PER_MULTIPROCESSOR, 32},
      {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, static_cast<int>(driver().set.units)},
      {CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 1}, {CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1},
      {CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, device + 1}, {CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3},
      {CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, capability / 10},
      {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, capability % 10},
      {CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_HOST_NUMA_MEMORY_POOLS_SUPPORTED, 1},
      {CU_DEVICE_ATTRIBUTE_HOST_MEMORY_POOLS_SUPPORTED, 1}};
  const auto found = known.find(attribute);
  *value = found == known.end() ? 0 : found->second;  // a feature that is not there
  return CUDA_SUCCESS;
}

API cuDeviceCanAccessPeer(int* can, CUdevice a, CUdevice b) {
  ENTER NEED(is_device(a) && is_device(b), CUDA_ERROR_INVALID_DEVICE)
  *can = a != b && driver().set.peers;
  return CUDA_SUCCESS;
}

// -- contexts -------------------------------------------------------------------------------------

API cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  ENTER NEED(is_device(device), CUDA_ERROR_INVALID_DEVICE)
  *context = &driver().contexts[device];
  return CUDA_SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(CUdevice) { return CUDA_SUCCESS; }

API cuDevicePrimaryCtxGetState(CUdevice, unsigned* flags, int* active) {
  ENTER
  *flags = 0;
  *active = 1;
  return CUDA_SUCCESS;
}

API cuCtxGetCurrent(CUcontext* context) {
  ENTER
  *context = current_device() < 0 ? nullptr : &driver().contexts[current_device()];
  return CUDA_SUCCESS;
}

API cuCtxSetCurrent(CUcontext context) {
  ENTER
  return set_current_device(context ? context->device : -1);
}

API cuCtxPushCurrent_v2(CUcontext context) {
  ENTER NEED(context, CUDA_ERROR_INVALID_CONTEXT)
  current_stack.push_back(context->device);
  return CUDA_SUCCESS;
}

API cuCtxPopCurrent_v2(CUcontext* context) {
  ENTER NEED_CONTEXT
  if (context) *context = &driver().contexts[current_device()];
  current_stack.pop_back();
  return CUDA_SUCCESS;
}

API cuCtxGetDevice(CUdevice* device) {
  ENTER NEED_CONTEXT
  *device = current_device();
  return CUDA_SUCCESS;
}

API cuCtxGetDevice_v2(CUdevice* device, CUcontext context) {
  if (!context) return cuCtxGetDevice(device);
  *device = context->device;
  return CUDA_SUCCESS;
}

API cuCtxSynchronize() {
  ENTER NEED_CONTEXT
  if (const CUresult refused = refuse_while_capturing()) return refused;
  finish_device(current_device());
  return driver().sticky;
}

API cuCtxSynchronize_v2(CUcontext context) {
  ENTER
  if (!context) return cuCtxSynchronize();
  if (const CUresult refused = refuse_while_capturing()) return refused;
  finish_device(context->device);
  return driver().sticky;
}

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  ENTER NEED_CONTEXT
  *least = 0;
  *greatest = -5;
  return CUDA_SUCCESS;
}

API cuCtxGetId(CUcontext context, unsigned long long* id) {
  ENTER
  if (!context && current_device() < 0) return CUDA_ERROR_INVALID_CONTEXT;
  *id = 1ull + static_cast<unsigned>(context ? context->device : current_device());
  return CUDA_SUCCESS;
}

API cuCtxEnablePeerAccess(CUcontext peer, unsigned) {
  ENTER NEED_CONTEXT NEED(peer, CUDA_ERROR_INVALID_CONTEXT)
  NEED(driver().set.peers, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)
  const bool fresh = driver().contexts[current_device()].peers.insert(peer->device).second;
  return fresh ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED;
}

API cuCtxDisablePeerAccess(CUcontext peer) {
  ENTER NEED_CONTEXT NEED(peer, CUDA_ERROR_INVALID_CONTEXT)
  const bool was = driver().contexts[current_device()].peers.erase(peer->device);
  return was ? CUDA_SUCCESS : CUDA_ERROR_PEER_ACCESS_NOT_ENABLED;
}

// -- names of errors ------------------------------------------------------------------------------

API cuGetErrorName(CUresult code, const char** text) {
  static const std::map<int, const char*> names = {
#define NAME(x) {CUDA_##x, "CUDA_" #x}
      NAME(SUCCESS), NAME(ERROR_INVALID_VALUE), NAME(ERROR_OUT_OF_MEMORY),
      NAME(ERROR_NOT_INITIALIZED), NAME(ERROR_NO_DEVICE), NAME(ERROR_INVALID_DEVICE),
      NAME(ERROR_INVALID_IMAGE), NAME(ERROR_INVALID_CONTEXT), NAME(ERROR_INVALID_HANDLE),
      NAME(ERROR_NOT_FOUND), NAME(ERROR_NOT_READY), NAME(ERROR_LAUNCH_OUT_OF_RESOURCES),
      NAME(ERROR_LAUNCH_FAILED), NAME(ERROR_NOT_SUPPORTED),
      NAME(ERROR_STREAM_CAPTURE_UNSUPPORTED), NAME(ERROR_STREAM_CAPTURE_INVALIDATED),
      NAME(ERROR_STREAM_CAPTURE_MERGE), NAME(ERROR_STREAM_CAPTURE_UNMATCHED),
      NAME(ERROR_STREAM_CAPTURE_UNJOINED), NAME(ERROR_STREAM_CAPTURE_ISOLATION),
      NAME(ERROR_STREAM_CAPTURE_IMPLICIT), NAME(ERROR_CAPTURED_EVENT),
      NAME(ERROR_GRAPH_EXEC_UPDATE_FAILURE)};
#undef NAME
  static std::map<int, std::string> others;
  std::lock_guard<std::recursive_mutex> guard(driver().lock);
  const auto found = names.find(code);
  if (found != names.end()) {
    *text = found->second;
  } else {
    std::string& other = others[code];
    if (other.empty()) other = "CUDA_ERROR_" + std::to_string(code);
    *text = other.c_str();
  }
  return CUDA_SUCCESS;
}

API cuGetErrorString(CUresult code, const char** text) { return cuGetErrorName(code, text); }

// Tables of unpublished functions, which NVIDIA's own libraries ask for: there are none.
API cuGetExportTable(const void** table, const CUuuid*) {
  *table = nullptr;
  return CUDA_ERROR_NOT_FOUND;
}

// -- look-up --------------------------------------------------------------------------------------

// Functions whose symbol is not their name: from which version on, which symbol.
static const struct { const char* name; int since; const char* symbol; } RENAMED[] = {
    {"cuCtxGetDevice", 13000, "cuCtxGetDevice_v2"},
    {"cuCtxPopCurrent", 4000, "cuCtxPopCurrent_v2"},
    {"cuCtxPushCurrent", 4000, "cuCtxPushCurrent_v2"},
    {"cuCtxSynchronize", 13000, "cuCtxSynchronize_v2"},
    {"cuDeviceGetUuid", 11040, "cuDeviceGetUuid_v2"},
    {"cuDevicePrimaryCtxRelease", 11000, "cuDevicePrimaryCtxRelease_v2"},
    {"cuDeviceTotalMem", 3020, "cuDeviceTotalMem_v2"},
    {"cuEventDestroy", 4000, "cuEventDestroy_v2"},
    {"cuEventElapsedTime", 12080, "cuEventElapsedTime_v2"},
    {"cuGetProcAddress", 12000, "cuGetProcAddress_v2"},
    {"cuGraphAddKernelNode", 12000, "cuGraphAddKernelNode_v2"},
    {"cuGraphExecKernelNodeSetParams", 12000, "cuGraphExecKernelNodeSetParams_v2"},
    {"cuGraphExecUpdate", 12000, "cuGraphExecUpdate_v2"},
    {"cuGraphKernelNodeGetParams", 12000, "cuGraphKernelNodeGetParams_v2"},
    {"cuGraphNodeGetDependencies", 12030, "cuGraphNodeGetDependencies_v2"},
    {"cuLaunchHostFunc", 13020, "cuLaunchHostFunc_v2"},
    {"cuMemAlloc", 3020, "cuMemAlloc_v2"},
    {"cuMemAllocHost", 3020, "cuMemAllocHost_v2"},
    {"cuMemFree", 3020, "cuMemFree_v2"},
    {"cuMemGetAddressRange", 3020, "cuMemGetAddressRange_v2"},
    {"cuMemGetInfo", 3020, "cuMemGetInfo_v2"},
    {"cuMemHostGetDevicePointer", 3020, "cuMemHostGetDevicePointer_v2"},
    {"cuMemHostRegister", 6050, "cuMemHostRegister_v2"},
    {"cuMemcpyDtoD", 3020, "cuMemcpyDtoD_v2"},
    {"cuMemcpyDtoDAsync", 3020, "cuMemcpyDtoDAsync_v2"},
    {"cuMemcpyDtoH", 3020, "cuMemcpyDtoH_v2"},
    {"cuMemcpyDtoHAsync", 3020, "cuMemcpyDtoHAsync_v2"},
    {"cuMemcpyHtoD", 3020, "cuMemcpyHtoD_v2"},
    {"cuMemcpyHtoDAsync", 3020, "cuMemcpyHtoDAsync_v2"},
    {"cuMemsetD16", 3020, "cuMemsetD16_v2"},
    {"cuMemsetD32", 3020, "cuMemsetD32_v2"},
    {"cuMemsetD8", 3020, "cuMemsetD8_v2"},
    {"cuStreamBeginCapture", 10010, "cuStreamBeginCapture_v2"},
    {"cuStreamDestroy", 4000, "cuStreamDestroy_v2"},
    {"cuStreamGetCaptureInfo", 11030, "cuStreamGetCaptureInfo_v2"},
    {"cuStreamGetCaptureInfo", 12030, "cuStreamGetCaptureInfo_v3"},
    {"cuStreamGetCtx", 12050, "cuStreamGetCtx_v2"},
    {"cuStreamUpdateCaptureDependencies", 12030, "cuStreamUpdateCaptureDependencies_v2"},
};

// Whatever else is asked for is there, says its name when it is called, and does nothing.
static std::vector<std::string> missing;

template <int N> static CUresult not_there() {
  fprintf(stderr, "simulated CUDA: %s is not implemented\n", missing[N].c_str());
  return CUDA_ERROR_NOT_SUPPORTED;
}
template <int... N> static std::vector<CUresult (*)()> stubs(std::integer_sequence<int, N...>) {
  return {&not_there<N>...};
}

API cuGetProcAddress_v2(const char* name, void** function, int version, uint64_t, int* status) {
  static const auto table = stubs(std::make_integer_sequence<int, 1500>{});
  static void* const self = [] {
    Dl_info info;
    dladdr(reinterpret_cast<void*>(&cuInit), &info);
    return dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD);
  }();
  std::lock_guard<std::recursive_mutex> guard(driver().lock);
  const char* symbol = name;
  for (const auto& r : RENAMED)
    if (!strcmp(r.name, name) && version >= r.since) symbol = r.symbol;
  *function = dlsym(self, symbol);
  if (!*function) {
    size_t k = 0;
    while (k < missing.size() && missing[k] != name) k++;
    if (k == table.size()) return CUDA_ERROR_NOT_FOUND;
    if (k == missing.size()) missing.push_back(name);
    *function = reinterpret_cast<void*>(table[k]);
  }
  if (status) *status = 0;
  return CUDA_SUCCESS;
}
