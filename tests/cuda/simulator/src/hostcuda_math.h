// The mathematical functions and numeric intrinsics of CUDA C on the host. Included by hostcuda.h.
//
// Results may differ from a device's in the last places: these are the C library's functions, and
// the fast intrinsics (__expf, ...) are as accurate as the slow ones.
#pragma once

#define HC_UNARY(name)                                                                       \
  extern "C" float name##f(float) noexcept;                                                  \
  extern "C" double name(double) noexcept;                                                   \
  static inline float name(float x) { return name##f(x); }
#define HC_BINARY(name)                                                                      \
  extern "C" float name##f(float, float) noexcept;                                           \
  extern "C" double name(double, double) noexcept;                                           \
  static inline float name(float x, float y) { return name##f(x, y); }
HC_UNARY(sqrt) HC_UNARY(cbrt) HC_UNARY(exp) HC_UNARY(exp2) HC_UNARY(expm1) HC_UNARY(log)
HC_UNARY(log2) HC_UNARY(log10) HC_UNARY(log1p) HC_UNARY(logb) HC_UNARY(sin) HC_UNARY(cos)
HC_UNARY(tan) HC_UNARY(asin) HC_UNARY(acos) HC_UNARY(atan) HC_UNARY(sinh) HC_UNARY(cosh)
HC_UNARY(tanh) HC_UNARY(asinh) HC_UNARY(acosh) HC_UNARY(atanh) HC_UNARY(erf) HC_UNARY(erfc)
HC_UNARY(tgamma) HC_UNARY(lgamma) HC_UNARY(fabs) HC_UNARY(floor) HC_UNARY(ceil) HC_UNARY(trunc)
HC_UNARY(round) HC_UNARY(rint) HC_UNARY(nearbyint) HC_UNARY(j0) HC_UNARY(j1) HC_UNARY(y0)
HC_UNARY(y1)
HC_BINARY(pow) HC_BINARY(atan2) HC_BINARY(fmod) HC_BINARY(remainder) HC_BINARY(hypot)
HC_BINARY(fdim) HC_BINARY(fmin) HC_BINARY(fmax) HC_BINARY(copysign) HC_BINARY(nextafter)
#undef HC_UNARY
#undef HC_BINARY
extern "C" {
float fmaf(float, float, float) noexcept;
double fma(double, double, double) noexcept;
float ldexpf(float, int) noexcept;
double ldexp(double, int) noexcept;
float scalbnf(float, int) noexcept;
double scalbn(double, int) noexcept;
float frexpf(float, int*) noexcept;
double frexp(double, int*) noexcept;
float modff(float, float*) noexcept;
double modf(double, double*) noexcept;
}
static inline float fma(float a, float b, float c) { return fmaf(a, b, c); }
static inline float ldexp(float x, int n) { return ldexpf(x, n); }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float exp10f(float x) { return (float)pow(10.0, (double)x); }
static inline double exp10(double x) { return pow(10.0, x); }
static inline void sincosf(float x, float* s, float* c) { *s = sinf(x); *c = cosf(x); }
static inline void sincos(double x, double* s, double* c) { *s = sin(x); *c = cos(x); }
static inline double sinpi(double x) {
  const double r = remainder(x, 2.0);
  return r == trunc(r) ? copysign(0.0, x) : sin(r * 3.14159265358979323846);
}
static inline double cospi(double x) {
  const double r = fabs(remainder(x, 2.0));
  return r == 0.5 ? 0.0 : cos(r * 3.14159265358979323846);
}
static inline float sinpif(float x) { return (float)sinpi((double)x); }
static inline float cospif(float x) { return (float)cospi((double)x); }
static inline float fdividef(float a, float b) { return a / b; }

#define HC_TEST(name, builtin)                                                            \
  static inline bool name(float x) { return builtin(x); }                                 \
  static inline bool name(double x) { return builtin(x); }
HC_TEST(isnan, __builtin_isnan) HC_TEST(isinf, __builtin_isinf)
HC_TEST(isfinite, __builtin_isfinite) HC_TEST(signbit, __builtin_signbit)
#undef HC_TEST

#define HC_MIN_MAX(T)                                                                     \
  static inline T min(T a, T b) { return b < a ? b : a; }                                 \
  static inline T max(T a, T b) { return a < b ? b : a; }
HC_MIN_MAX(int) HC_MIN_MAX(unsigned) HC_MIN_MAX(long) HC_MIN_MAX(unsigned long)
HC_MIN_MAX(long long) HC_MIN_MAX(unsigned long long)
#undef HC_MIN_MAX
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline int abs(int x) { return x < 0 ? -x : x; }
static inline long abs(long x) { return x < 0 ? -x : x; }
static inline long long abs(long long x) { return x < 0 ? -x : x; }
static inline float abs(float x) { return fabsf(x); }
static inline double abs(double x) { return fabs(x); }
static inline long labs(long x) { return abs(x); }
static inline long long llabs(long long x) { return abs(x); }

// -- intrinsics: floating numbers -----------------------------------------------------------------

static inline float __expf(float x) { return expf(x); }
static inline float __exp10f(float x) { return exp10f(x); }
static inline float __logf(float x) { return logf(x); }
static inline float __log2f(float x) { return log2f(x); }
static inline float __log10f(float x) { return log10f(x); }
static inline float __sinf(float x) { return sinf(x); }
static inline float __cosf(float x) { return cosf(x); }
static inline float __tanf(float x) { return tanf(x); }
static inline float __powf(float x, float y) { return powf(x, y); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float x) { return x > 1 ? 1 : x > 0 ? x : 0; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline double __dadd_rn(double a, double b) { return a + b; }
static inline double __dsub_rn(double a, double b) { return a - b; }
static inline double __dmul_rn(double a, double b) { return a * b; }
static inline double __ddiv_rn(double a, double b) { return a / b; }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
static inline double __dsqrt_rn(double x) { return sqrt(x); }
static inline double __drcp_rn(double x) { return 1.0 / x; }

// Bits and numbers.
#define HC_BITS(name, To, From) static inline To name(From x) { return hc_copy_bits<To>(x); }
HC_BITS(__float_as_int, int, float)
HC_BITS(__int_as_float, float, int)
HC_BITS(__float_as_uint, unsigned, float)
HC_BITS(__uint_as_float, float, unsigned)
HC_BITS(__double_as_longlong, long long, double)
HC_BITS(__longlong_as_double, double, long long)
#undef HC_BITS
static inline int __double2hiint(double x) { return (int)(__double_as_longlong(x) >> 32); }
static inline int __double2loint(double x) { return (int)__double_as_longlong(x); }
static inline double __hiloint2double(int hi, int lo) {
  return __longlong_as_double(((long long)hi << 32) | (unsigned)lo);
}

// Conversions to integers saturate, NaN becomes 0, as the hardware's do.
template <class I, class F> static inline I hc_saturate(F x) {
  constexpr bool is_signed = (I)-1 < (I)0;
  constexpr int digits = 8 * sizeof(I) - is_signed;
  const F end = (F)(1ull << (digits - 1)) * 2;
  const I greatest = (I)(~0ull >> (64 - digits)), least = is_signed ? (I)(-greatest - 1) : (I)0;
  return x != x ? 0 : x >= end ? greatest : x <= (is_signed ? -end : (F)0) ? least : (I)x;
}
#define HC_ROUND_TO(name, I, F)                                                           \
  static inline I name##_rn(F x) { return hc_saturate<I>(rint(x)); }                      \
  static inline I name##_rz(F x) { return hc_saturate<I>(trunc(x)); }                     \
  static inline I name##_rd(F x) { return hc_saturate<I>(floor(x)); }                     \
  static inline I name##_ru(F x) { return hc_saturate<I>(ceil(x)); }
HC_ROUND_TO(__float2int, int, float)
HC_ROUND_TO(__float2uint, unsigned, float)
HC_ROUND_TO(__float2ll, long long, float)
HC_ROUND_TO(__float2ull, unsigned long long, float)
HC_ROUND_TO(__double2int, int, double)
HC_ROUND_TO(__double2uint, unsigned, double)
HC_ROUND_TO(__double2ll, long long, double)
HC_ROUND_TO(__double2ull, unsigned long long, double)
#undef HC_ROUND_TO
static inline float __double2float_rn(double x) { return (float)x; }
static inline float __int2float_rn(int x) { return (float)x; }
static inline float __uint2float_rn(unsigned x) { return (float)x; }
static inline float __ll2float_rn(long long x) { return (float)x; }
static inline float __ull2float_rn(unsigned long long x) { return (float)x; }
static inline double __int2double_rn(int x) { return x; }
static inline double __uint2double_rn(unsigned x) { return x; }
static inline double __ll2double_rn(long long x) { return (double)x; }
static inline double __ull2double_rn(unsigned long long x) { return (double)x; }

// 16-bit floats as bits, for the host's branch of a text that uses PTX conversions on the device.
static inline float hc_half_to_float(unsigned short x) { return (float)hc_copy_bits<_Float16>(x); }
static inline unsigned short hc_float_to_half(float x) {
  return hc_copy_bits<unsigned short>((_Float16)x);
}
static inline float hc_bfloat16_to_float(unsigned short x) {
  return __uint_as_float((unsigned)x << 16);
}
static inline unsigned short hc_float_to_bfloat16(float x) {
  const unsigned u = __float_as_uint(x);
  return x != x ? 0x7fff : (unsigned short)((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

// -- intrinsics: integers -------------------------------------------------------------------------

static inline int __mulhi(int a, int b) { return (int)(((long long)a * b) >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) {
  return (unsigned)(((unsigned long long)a * b) >> 32);
}
static inline long long __mul64hi(long long a, long long b) {
  return (long long)(((__int128)a * b) >> 64);
}
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)(((unsigned __int128)a * b) >> 64);
}
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz((unsigned)x) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __ffsll(long long x) { return __builtin_ffsll(x); }
static inline unsigned __brev(unsigned x) {
  unsigned r = 0;
  for (int i = 0; i < 32; i++) r |= ((x >> i) & 1u) << (31 - i);
  return r;
}
static inline unsigned long long __brevll(unsigned long long x) {
  return ((unsigned long long)__brev((unsigned)x) << 32) | __brev((unsigned)(x >> 32));
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned s) {
  const unsigned long long both = ((unsigned long long)y << 32) | x;
  unsigned r = 0;
  for (int i = 0; i < 4; i++)
    r |= (unsigned)((both >> (8 * ((s >> (4 * i)) & 7))) & 0xff) << (8 * i);
  return r;
}
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)(((((unsigned long long)hi << 32) | lo) << (n & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned n) {
  return (unsigned)((((unsigned long long)hi << 32) | lo) >> (n & 31));
}
static inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; i++) c += (int)(signed char)(a >> (8 * i)) * (signed char)(b >> (8 * i));
  return c;
}
static inline long long clock64() { static long long ticks; return ++ticks; }
