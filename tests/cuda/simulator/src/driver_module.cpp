// Images, kernels and launches. An image is the bytes of a shared library of the host
// (hostcuda_abi.h), which stands for a cubin.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "driver.h"

extern "C" int hc_run(const hc_kernel*, const unsigned* grid, const unsigned* size, hc_size shared,
                      void** args);
extern "C" const char* hc_error();

// -- images ---------------------------------------------------------------------------------------

// Bytes of an ELF file, which ends with its section headers.
static size_t image_size(const void* image) {
  const auto* bytes = static_cast<const unsigned char*>(image);
  if (memcmp(bytes, "\177ELF\2", 5)) return 0;  // of 64 bits
  uint64_t sections;
  uint16_t size, count;
  memcpy(&sections, bytes + 40, 8);
  memcpy(&size, bytes + 58, 2);
  memcpy(&count, bytes + 60, 2);
  return sections + size_t{size} * count;
}

static void* load(const void* image) {
  const size_t size = image_size(image);
  if (!size) {
    fprintf(stderr, "simulated CUDA: the image is not of the simulator's compiler; was it made "
                    "before the simulator was installed?\n");
    return nullptr;
  }
  // Every image needs a name of its own, or the loader takes it for one that it has.
  const char* folder = getenv("TMPDIR");
  std::string path = std::string(folder && *folder ? folder : "/tmp") + "/simulated-XXXXXX";
  const int file = mkstemp(&path[0]);
  if (file < 0) return nullptr;
  const bool written = write(file, image, size) == static_cast<ssize_t>(size);
  close(file);
  void* library = written ? dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL) : nullptr;
  if (!library) fprintf(stderr, "simulated CUDA: %s\n", dlerror());
  unlink(path.c_str());
  return library;
}

API cuModuleLoadData(CUmodule* out, const void* image) {
  ENTER NEED_CONTEXT
  void* library = load(image);
  NEED(library, CUDA_ERROR_INVALID_IMAGE)
  *out = new Module{library, current_device(), {}};
  driver().modules.insert(*out);
  return CUDA_SUCCESS;
}

API cuModuleLoadDataEx(CUmodule* out, const void* image, unsigned, int*, void**) {
  return cuModuleLoadData(out, image);
}

API cuLibraryLoadData(CUlibrary* out, const void* image, int*, void**, unsigned, int*, void**,
                      unsigned) {
  ENTER
  void* library = load(image);
  NEED(library, CUDA_ERROR_INVALID_IMAGE)
  *out = new Module{library, -1, {}};  // of no context: its kernels run on every device
  driver().modules.insert(*out);
  return CUDA_SUCCESS;
}

API cuModuleUnload(CUmodule module) {
  ENTER NEED(driver().modules.erase(module), CUDA_ERROR_INVALID_HANDLE)
  finish_device(module->device);
  for (const auto& [_, f] : module->functions) {
    driver().functions.erase(f);
    delete f;
  }
  dlclose(module->library);
  delete module;
  return CUDA_SUCCESS;
}

API cuLibraryUnload(CUlibrary library) { return cuModuleUnload(library); }

API cuModuleGetFunction(CUfunction* out, CUmodule module, const char* name) {
  ENTER NEED(driver().modules.count(module), CUDA_ERROR_INVALID_HANDLE)
  Function*& f = module->functions[name];
  if (!f) {
    void* kernel = dlsym(module->library, (std::string("hc_kernel_") + name).c_str());
    if (!kernel) module->functions.erase(name);
    NEED(kernel, CUDA_ERROR_NOT_FOUND)
    f = new Function{static_cast<const hc_kernel*>(kernel), module};
    driver().functions.insert(f);
  }
  *out = f;
  return CUDA_SUCCESS;
}

API cuLibraryGetKernel(CUkernel* out, CUlibrary library, const char* name) {
  return cuModuleGetFunction(out, library, name);
}

API cuLibraryGetModule(CUmodule* out, CUlibrary library) {
  *out = library;
  return CUDA_SUCCESS;
}

API cuModuleGetLoadingMode(int* mode) {
  *mode = 1;  // eager
  return CUDA_SUCCESS;
}

// -- what is known of a kernel --------------------------------------------------------------------

API cuKernelGetFunction(CUfunction* out, CUkernel kernel) {
  *out = kernel;
  return CUDA_SUCCESS;
}

API cuKernelGetLibrary(CUlibrary* out, CUkernel kernel) {
  *out = kernel->module;
  return CUDA_SUCCESS;
}

API cuKernelGetName(const char** out, CUkernel kernel) {
  *out = kernel->kernel->name;
  return CUDA_SUCCESS;
}

API cuFuncGetName(const char** out, CUfunction function) { return cuKernelGetName(out, function); }

API cuFuncGetModule(CUmodule* out, CUfunction function) {
  *out = function->module;
  return CUDA_SUCCESS;
}

API cuKernelGetParamInfo(CUkernel kernel, size_t index, size_t* offset, size_t* size) {
  ENTER NEED(driver().functions.count(kernel), CUDA_ERROR_INVALID_HANDLE)
  const hc_kernel& k = *kernel->kernel;
  NEED(index < static_cast<size_t>(k.count), CUDA_ERROR_INVALID_VALUE)
  size_t at = 0;
  for (size_t i = 0; i <= index; i++) {
    at = (at + k.alignments[i] - 1) / k.alignments[i] * k.alignments[i];
    if (i < index) at += k.sizes[i];
  }
  *offset = at;
  if (size) *size = k.sizes[index];
  return CUDA_SUCCESS;
}

API cuFuncGetParamInfo(CUfunction function, size_t index, size_t* offset, size_t* size) {
  return cuKernelGetParamInfo(function, index, offset, size);
}

API cuKernelGetParamCount(CUkernel kernel, size_t* count) {
  *count = static_cast<size_t>(kernel->kernel->count);
  return CUDA_SUCCESS;
}

API cuFuncGetParamCount(CUfunction function, size_t* count) {
  return cuKernelGetParamCount(function, count);
}

static size_t static_shared(const Function* f) {
  return static_cast<size_t>(f->kernel->shared_end - f->kernel->shared_begin);
}

API cuFuncGetAttribute(int* value, int attribute, CUfunction f) {
  ENTER NEED(driver().functions.count(f), CUDA_ERROR_INVALID_HANDLE)
  switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES: *value = static_cast<int>(static_shared(f)); break;
    case CU_FUNC_ATTRIBUTE_NUM_REGS: *value = 32; break;
    case CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = f->dynamic_limit; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

API cuFuncSetAttribute(CUfunction f, int attribute, int value) {
  ENTER NEED(driver().functions.count(f), CUDA_ERROR_INVALID_HANDLE)
  if (attribute == CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) {
    NEED(value >= 0 && static_cast<size_t>(value) + static_shared(f) <= 227 << 10,
         CUDA_ERROR_INVALID_VALUE)
    f->dynamic_limit = value;
  }
  return CUDA_SUCCESS;
}

API cuKernelGetAttribute(int* value, int attribute, CUkernel kernel, CUdevice) {
  return cuFuncGetAttribute(value, attribute, kernel);
}

API cuKernelSetAttribute(int attribute, int value, CUkernel kernel, CUdevice) {
  return cuFuncSetAttribute(kernel, attribute, value);
}

API cuFuncSetCacheConfig(CUfunction, int) { ENTER return CUDA_SUCCESS; }

API cuFuncLoad(CUfunction) { ENTER return CUDA_SUCCESS; }

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction f, int threads,
                                                size_t shared) {
  ENTER NEED(driver().functions.count(f), CUDA_ERROR_INVALID_HANDLE)
  NEED(threads > 0 && threads <= 1024, CUDA_ERROR_INVALID_VALUE)
  const size_t each = shared + static_shared(f) + 1024;
  *blocks = std::min({32, 2048 / ((threads + 31) / 32 * 32),
                      static_cast<int>((size_t{228} << 10) / each)});
  return CUDA_SUCCESS;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, CUfunction f, int threads,
                                                         size_t shared, unsigned) {
  return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, f, threads, shared);
}

API cuOccupancyMaxPotentialBlockSize(int* grid, int* threads, CUfunction f, size_t (*)(int),
                                     size_t, int limit) {
  ENTER NEED(driver().functions.count(f), CUDA_ERROR_INVALID_HANDLE)
  *threads = limit > 0 && limit < 256 ? limit : 256;
  *grid = static_cast<int>(driver().set.units) * 8;
  return CUDA_SUCCESS;
}

// -- launches -------------------------------------------------------------------------------------

void Launch::run() const {
  Driver& d = driver();
  if (d.sticky) return;
  if (d.set.fail_launch > 0 && --d.set.fail_launch == 0) {
    d.sticky = static_cast<CUresult>(d.set.fail_code);
    d.message = std::string("an injected failure of ") + function->kernel->name;
    return;
  }
  std::vector<void*> args;
  for (const size_t offset : offsets) args.push_back(const_cast<char*>(values.data()) + offset);
  if (hc_run(function->kernel, grid, block, shared, args.data())) {
    d.sticky = CUDA_ERROR_LAUNCH_FAILED;
    violation(hc_error());
  }
}

std::shared_ptr<Launch> make_launch(Function* f, const unsigned* grid, const unsigned* block,
                                    unsigned shared, void** args) {
  auto launch = std::make_shared<Launch>();
  launch->function = f;
  std::copy_n(grid, 3, launch->grid);
  std::copy_n(block, 3, launch->block);
  launch->shared = shared;
  const hc_kernel& k = *f->kernel;
  for (int i = 0; i < k.count; i++) {
    const size_t at = (launch->values.size() + 15) / 16 * 16;
    launch->values.resize(at + k.sizes[i]);
    memcpy(launch->values.data() + at, args[i], k.sizes[i]);
    launch->offsets.push_back(at);
  }
  return launch;
}

CUresult check_launch(const Function* f, const unsigned* grid, const unsigned* block,
                      unsigned shared) {
  NEED(driver().functions.count(const_cast<Function*>(f)), CUDA_ERROR_INVALID_HANDLE)
  for (int i = 0; i < 3; i++) NEED(grid[i] && block[i], CUDA_ERROR_INVALID_VALUE)
  NEED(grid[0] <= 0x7fffffff && grid[1] <= 65535 && grid[2] <= 65535, CUDA_ERROR_INVALID_VALUE)
  NEED(block[2] <= 64 && uint64_t{block[0]} * block[1] * block[2] <= 1024,
       CUDA_ERROR_INVALID_VALUE)
  NEED(shared <= static_cast<unsigned>(f->dynamic_limit), CUDA_ERROR_INVALID_VALUE)
  return CUDA_SUCCESS;
}

// Whether a kernel is given memory of another device that its own may not use. Any argument of
// 8 bytes may be an address; a number that happens to be one is unlikely enough.
static bool reaches_all(const Launch& launch, int device) {
  const hc_kernel& k = *launch.function->kernel;
  for (int i = 0; i < k.count; i++) {
    if (k.sizes[i] != sizeof(void*)) continue;
    void* pointer;
    memcpy(&pointer, launch.values.data() + launch.offsets[i], sizeof pointer);
    if (!can_reach(device, pointer)) return false;
  }
  return true;
}

API cuLaunchKernel(CUfunction f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, CUstream handle, void** args, void** extra) {
  ENTER NEED_STREAM(s, handle)
  const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz};
  if (const CUresult wrong = check_launch(f, grid, block, shared)) return wrong;
  NEED(!extra && (args || !f->kernel->count), CUDA_ERROR_INVALID_VALUE)
  NEED(f->module->device < 0 || f->module->device == s->device, CUDA_ERROR_INVALID_HANDLE)
  driver().launches++;
  if (driver().set.null_launches && !s->capture) return CUDA_SUCCESS;
  auto launch = make_launch(f, grid, block, shared, args);
  if (driver().set.devices > 1 && !reaches_all(*launch, s->device)) {
    violation(std::string(f->kernel->name) + " got memory of another device without access to it");
    driver().sticky = CUDA_ERROR_ILLEGAL_ADDRESS;
  }
  submit(s, CU_GRAPH_NODE_TYPE_KERNEL, [launch] { launch->run(); }, launch);
  return CUDA_SUCCESS;
}

API cuLaunchKernelEx(const CUlaunchConfig* c, CUfunction f, void** args, void** extra) {
  return cuLaunchKernel(f, c->gridDimX, c->gridDimY, c->gridDimZ, c->blockDimX, c->blockDimY,
                        c->blockDimZ, c->sharedMemBytes, c->hStream, args, extra);
}
