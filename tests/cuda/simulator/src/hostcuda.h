// CUDA C for the host: included in front of a kernel's text, which then compiles as plain C++17.
//
// It gives what NVRTC gives without any #include, under the same names and types, so that a kernel
// which uses something else fails to compile here as there. LMP_HOST is defined, for the few places
// where a kernel text must differ (inline PTX) and for the prelude, whose types are given here. Threads of a block are fibers of hostcuda.cpp; there
// is only one running at a time, so that atomics are plain reads and writes.
#pragma once
#include "hostcuda_abi.h"

#define LMP_HOST 1
#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __align__(n) alignas(n)
#define __grid_constant__
// All static shared memory of an image lies in one section, which is poisoned before every block.
#define __shared__ static __attribute__((section("lmp_shared")))
#define LMP_DYN_SMEM(T, name) T* const name = reinterpret_cast<T*>(hc->dynamic_shared)
#ifndef __clang__
#define __builtin_assume(x) ((void)0)
#endif

typedef hc_size size_t;
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
static hc_state* hc;

#define threadIdx (hc->thread)
#define blockIdx (hc->block)
#define blockDim (hc->block_size)
#define gridDim (hc->grid_size)
#define warpSize 32

// -- vectors --------------------------------------------------------------------------------------

#define HC_VECTOR(T, name, a2, a4)                                                        \
  struct name##1 { T x; };                                                                \
  struct alignas(a2) name##2 { T x, y; };                                                 \
  struct name##3 { T x, y, z; };                                                          \
  struct alignas(a4) name##4 { T x, y, z, w; };                                           \
  static inline name##1 make_##name##1(T x) { return {x}; }                               \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                       \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }               \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
HC_VECTOR(signed char, char, 2, 4)
HC_VECTOR(unsigned char, uchar, 2, 4)
HC_VECTOR(short, short, 4, 8)
HC_VECTOR(unsigned short, ushort, 4, 8)
HC_VECTOR(int, int, 8, 16)
HC_VECTOR(unsigned, uint, 8, 16)
HC_VECTOR(long, long, 16, 16)
HC_VECTOR(unsigned long, ulong, 16, 16)
HC_VECTOR(long long, longlong, 16, 16)
HC_VECTOR(unsigned long long, ulonglong, 16, 16)
HC_VECTOR(float, float, 8, 16)
HC_VECTOR(double, double, 16, 16)
#undef HC_VECTOR

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// -- threads together -----------------------------------------------------------------------------

#define __syncthreads() ((void)hc->barrier(__LINE__, 0))
#define __syncthreads_count(p) (hc->barrier(__LINE__, (p) != 0))
#define __syncthreads_or(p) (hc->barrier(__LINE__, (p) != 0) != 0)
#define __syncthreads_and(p) (hc->barrier(__LINE__, (p) == 0) == 0)

template <class To, class From> static inline To hc_copy_bits(const From& from) {
  To to{};
  __builtin_memcpy(&to, &from, sizeof(From) < sizeof(To) ? sizeof(From) : sizeof(To));
  return to;
}
template <class T> static inline T hc_shuffle(unsigned mask, T value, int source) {
  // small integers are promoted to int
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || (sizeof(T) < 4 && (T)0.5 == (T)0),
                "shuffles take 4 or 8 bytes");
  return hc_copy_bits<T>(hc->warp(mask, HC_SHUFFLE, hc_copy_bits<hc_bits>(value), source));
}
// Lanes exchange within segments of `width` lanes; who would read beyond its segment reads itself.
template <class T> T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
  return hc_shuffle(mask, v, (hc->lane & -width) | (lane & (width - 1)));
}
template <class T> T __shfl_xor_sync(unsigned mask, T v, int bits, int width = 32) {
  const int source = hc->lane ^ bits;
  return hc_shuffle(mask, v, (source & -width) > (hc->lane & -width) ? hc->lane : source);
}
template <class T> T __shfl_down_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const int inside = hc->lane & (width - 1);
  return hc_shuffle(mask, v, inside + (int)d < width ? hc->lane + (int)d : hc->lane);
}
template <class T> T __shfl_up_sync(unsigned mask, T v, unsigned d, int width = 32) {
  const int inside = hc->lane & (width - 1);
  return hc_shuffle(mask, v, inside >= (int)d ? hc->lane - (int)d : hc->lane);
}
static inline void __syncwarp(unsigned mask = ~0u) { hc->warp(mask, HC_SYNC, 0, 0); }
static inline unsigned __ballot_sync(unsigned mask, int p) {
  return (unsigned)hc->warp(mask, HC_BALLOT, p != 0, 0);
}
static inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
static inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }
// Any set of lanes that holds the caller's is a correct answer; the smallest hides no mistake.
static inline unsigned __activemask() { return 1u << hc->lane; }
template <class T> unsigned __match_any_sync(unsigned mask, T v) {
  return (unsigned)hc->warp(mask, HC_MATCH, hc_copy_bits<hc_bits>(v), 0);
}
#define HC_REDUCE(name, T, op)                                                            \
  static inline T name(unsigned mask, T v) { return (T)hc->warp(mask, op, (hc_bits)v, 0); }
HC_REDUCE(__reduce_add_sync, int, HC_ADD)
HC_REDUCE(__reduce_add_sync, unsigned, HC_ADD)
HC_REDUCE(__reduce_min_sync, int, HC_MIN_SIGNED)
HC_REDUCE(__reduce_min_sync, unsigned, HC_MIN_UNSIGNED)
HC_REDUCE(__reduce_max_sync, int, HC_MAX_SIGNED)
HC_REDUCE(__reduce_max_sync, unsigned, HC_MAX_UNSIGNED)
HC_REDUCE(__reduce_and_sync, unsigned, HC_AND)
HC_REDUCE(__reduce_or_sync, unsigned, HC_OR)
HC_REDUCE(__reduce_xor_sync, unsigned, HC_XOR)
#undef HC_REDUCE

static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}
static inline void __nanosleep(unsigned) { hc->yield(); }
static inline void __trap() { hc->fail("__trap()"); }
#define assert(x) ((x) ? (void)0 : hc->fail("assertion failed: " #x))
extern "C" int printf(const char*, ...);

// -- atomics --------------------------------------------------------------------------------------

#define HC_ATOMIC(name, T, expression)                                                    \
  static inline T name(T* p, T v) { const T old = *(volatile T*)p; *(volatile T*)p = (expression); \
                                    return old; }                                         \
  static inline T name##_block(T* p, T v) { return name(p, v); }                          \
  static inline T name##_system(T* p, T v) { return name(p, v); }
#define HC_ATOMIC_INTS(name, expression)                                                  \
  HC_ATOMIC(name, int, expression) HC_ATOMIC(name, unsigned, expression)                  \
  HC_ATOMIC(name, unsigned long long, expression)
HC_ATOMIC(atomicAdd, int, (int)((unsigned)old + (unsigned)v))
HC_ATOMIC(atomicAdd, unsigned, old + v)
HC_ATOMIC(atomicAdd, unsigned long long, old + v)
HC_ATOMIC(atomicAdd, float, old + v)
HC_ATOMIC(atomicAdd, double, old + v)
HC_ATOMIC(atomicSub, int, (int)((unsigned)old - (unsigned)v))
HC_ATOMIC(atomicSub, unsigned, old - v)
HC_ATOMIC_INTS(atomicExch, v)
HC_ATOMIC(atomicExch, float, v)
HC_ATOMIC_INTS(atomicMax, old > v ? old : v)
HC_ATOMIC(atomicMax, long long, old > v ? old : v)
HC_ATOMIC_INTS(atomicMin, old < v ? old : v)
HC_ATOMIC(atomicMin, long long, old < v ? old : v)
HC_ATOMIC_INTS(atomicAnd, old & v)
HC_ATOMIC_INTS(atomicOr, old | v)
HC_ATOMIC_INTS(atomicXor, old ^ v)
HC_ATOMIC(atomicInc, unsigned, old >= v ? 0 : old + 1)
HC_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#define HC_CAS(T)                                                                         \
  static inline T atomicCAS(T* p, T compare, T v) {                                       \
    const T old = *(volatile T*)p;                                                        \
    if (old == compare) *(volatile T*)p = v;                                              \
    return old;                                                                           \
  }
HC_CAS(int) HC_CAS(unsigned) HC_CAS(unsigned long long) HC_CAS(unsigned short)
#undef HC_ATOMIC
#undef HC_ATOMIC_INTS
#undef HC_CAS

// -- loads and stores with a cache hint -----------------------------------------------------------

#define HC_LOAD(name) template <class T> static inline T name(const T* p) { return *p; }
#define HC_STORE(name) template <class T> static inline void name(T* p, T v) { *p = v; }
HC_LOAD(__ldg) HC_LOAD(__ldca) HC_LOAD(__ldcg) HC_LOAD(__ldcs) HC_LOAD(__ldlu) HC_LOAD(__ldcv)
HC_STORE(__stwb) HC_STORE(__stcg) HC_STORE(__stcs) HC_STORE(__stwt)
#undef HC_LOAD
#undef HC_STORE
static inline size_t __cvta_generic_to_shared(const void* p) { return (size_t)p; }

#include "hostcuda_math.h"

// -- what the image exports -----------------------------------------------------------------------

extern "C" char __start_lmp_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_lmp_shared[] __attribute__((weak, visibility("hidden")));

// Braces evaluate from left to right, so that `*args++` meets the parameters in their order.
template <class... A> struct hc_invoke { hc_invoke(void (*k)(A...), A... a) { k(a...); } };
template <class... A> struct hc_parameters {
  static constexpr hc_size sizes[] = {sizeof(A)..., 0};
  static constexpr hc_size alignments[] = {alignof(A)..., 0};
  static constexpr int count = sizeof...(A);
  static void call(void (*k)(A...), void** args) {
    (void)args;
    hc_invoke<A...>{k, *static_cast<A*>(*args++)...};
  }
};
template <class... A> hc_parameters<A...> hc_parameters_of(void (*)(A...));
#define HC_EXPORT(k)                                                                      \
  extern "C" __attribute__((visibility("default"))) const hc_kernel hc_kernel_##k = {     \
      #k,                                                                                 \
      [](void** args) { decltype(hc_parameters_of(&k))::call(&k, args); },                \
      decltype(hc_parameters_of(&k))::count,                                              \
      decltype(hc_parameters_of(&k))::sizes,                                              \
      decltype(hc_parameters_of(&k))::alignments,                                         \
      __start_lmp_shared, __stop_lmp_shared, &hc};
