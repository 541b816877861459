// Copies and fills.
//
// As the driver does it: pageable memory has been read when the call returns, and written; pinned
// memory is read and written when the stream gets there. In deferred mode pinned memory that waits
// for a copy is poison.
#include <cstring>

#include "driver.h"

// -- copies ---------------------------------------------------------------------------------------

static CUresult copy(void* to, const void* from, size_t size, Stream* s) {
  if (!size) return CUDA_SUCCESS;
  const Block *target = block_at(to), *source = block_at(from);
  NEED(may_be_copied(to, size, target) && may_be_copied(from, size, source), CUDA_ERROR_INVALID_VALUE)
  if (s->capture || !driver().set.deferred) {
    submit(s, CU_GRAPH_NODE_TYPE_MEMCPY, [=] { memmove(to, from, size); });
    return CUDA_SUCCESS;
  }
  if (!source) {
    const auto* begin = static_cast<const char*>(from);
    const auto copied = std::make_shared<std::vector<char>>(begin, begin + size);
    submit(s, CU_GRAPH_NODE_TYPE_MEMCPY, [=] { memcpy(to, copied->data(), size); });
  } else {
    if (target && target->kind == Kind::pinned && source->kind == Kind::device)
      memset(to, POISON, size);  // whoever looks before the copy is done shall see it
    submit(s, CU_GRAPH_NODE_TYPE_MEMCPY, [=] { memmove(to, from, size); });
  }
  if (!target) finish_stream(s);
  return driver().sticky;
}

static CUresult copy_async(CUdeviceptr to, const void* from, size_t size, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  return copy(reinterpret_cast<void*>(to), from, size, s);
}

// On the legacy stream, waiting for the end where the host takes part.
static CUresult copy_now(void* to, const void* from, size_t size) {
  ENTER NEED_STREAM(s, nullptr)
  if (const CUresult refused = refuse_while_capturing()) return refused;
  if (const CUresult failed = copy(to, from, size, s)) return failed;
  const Block *target = block_at(to), *source = block_at(from);
  const bool on_device = target && source && target->kind == Kind::device &&
                         source->kind == Kind::device;
  if (!on_device) finish_stream(s);
  return driver().sticky;
}

static void* pointer(CUdeviceptr p) { return reinterpret_cast<void*>(p); }

API cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
  return copy_async(to, pointer(from), n, s);
}
API cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t n, CUstream s) {
  return copy_async(to, from, n, s);
}
API cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t n, CUstream s) {
  return copy_async(reinterpret_cast<CUdeviceptr>(to), pointer(from), n, s);
}
API cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t n, CUstream s) {
  return copy_async(to, pointer(from), n, s);
}
API cuMemcpyPeerAsync(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t n,
                      CUstream s) {
  return copy_async(to, pointer(from), n, s);
}
API cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t n) {
  return copy_now(pointer(to), pointer(from), n);
}
API cuMemcpyPeer(CUdeviceptr to, CUcontext, CUdeviceptr from, CUcontext, size_t n) {
  return copy_now(pointer(to), pointer(from), n);
}
API cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t n) {
  return copy_now(pointer(to), from, n);
}
API cuMemcpyDtoH_v2(void* to, CUdeviceptr from, size_t n) { return copy_now(to, pointer(from), n); }
API cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t n) {
  return copy_now(pointer(to), pointer(from), n);
}

// -- fills ----------------------------------------------------------------------------------------

template <class T> static CUresult fill(CUdeviceptr to, T value, size_t count, CUstream handle) {
  ENTER NEED_STREAM(s, handle)
  T* const p = reinterpret_cast<T*>(to);
  NEED(to % sizeof(T) == 0 && (!count || may_be_copied(p, count * sizeof(T), block_at(p))),
       CUDA_ERROR_INVALID_VALUE)
  if (count) submit(s, CU_GRAPH_NODE_TYPE_MEMSET, [=] { std::fill_n(p, count, value); });
  return CUDA_SUCCESS;
}

API cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream s) {
  return fill(to, value, count, s);
}
API cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream s) {
  return fill(to, value, count, s);
}
API cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream s) {
  return fill(to, value, count, s);
}
API cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count) {
  return fill(to, value, count, nullptr);
}
API cuMemsetD16_v2(CUdeviceptr to, unsigned short value, size_t count) {
  return fill(to, value, count, nullptr);
}
API cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) {
  return fill(to, value, count, nullptr);
}
