// A cuBLASLt that computes on the host, in the order of the simulated driver's streams.
//
// D = epilogue(alpha op(A) op(B) + beta C), with products and sums in double. Like the original it
// declines what it does not support: combinations of types, epilogues, leading dimensions. It offers
// several algorithms, which differ in the workspace that they want, and checks that they get it.
#include <complex>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

extern "C" int simulator_submit(void* stream, void (*run)(void*), void* data,
                                void (*destroy)(void*));

namespace {

enum Status { OK = 0, NOT_INITIALIZED = 1, INVALID = 7, FAILED = 13, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F64 = 1, F16 = 2, I8 = 3, C32 = 4, C64 = 5, I32 = 10, BF16 = 14 };
enum Compute { IN_F16 = 64, IN_F32 = 68, IN_F64 = 70, IN_I32 = 72, FAST_TF32 = 77 };
enum Attribute {  // of a product
  POINTER_MODE = 2, TRANSA = 3, TRANSB = 4, EPILOGUE = 7, BIAS = 8, BIAS_STRIDE = 10, AUX = 11,
  AUX_LD = 12, AUX_STRIDE = 13, AUX_TYPE = 22, BIAS_TYPE = 26
};
enum LayoutAttribute { TYPE = 0, ORDER = 1, ROWS = 2, COLS = 3, LD = 4, BATCH = 5, STRIDE = 6 };
// An epilogue is a sum of these.
enum Epilogue {
  DEFAULT = 1, RELU = 2, ADD_BIAS = 4, DRELU = 8, BIAS_GRADIENT = 16, GELU = 32, DGELU = 64,
  WITH_AUX = 128, GRADIENT_A = 256, GRADIENT_B = 512
};
constexpr int EPILOGUES[] = {1, 2, 130, 4, 6, 134, 136, 152, 32, 160, 36, 164, 192, 208, 256, 512};
constexpr int WORKSPACE_ATTRIBUTE = 1;  // of a preference
constexpr uint64_t MAGIC = 0x5349'4d4c'54ull;

// -- descriptors: attributes by number, as bytes --------------------------------------------------

struct Attributes {
  std::map<int, std::vector<char>> values;

  template <class T> T get(int which, T otherwise = T{}) const {
    const auto found = values.find(which);
    T out = otherwise;
    if (found != values.end()) memcpy(&out, found->second.data(), sizeof out);
    return out;
  }
  Status set(int which, const void* data, size_t size, const std::map<int, size_t>& sizes) {
    const auto expected = sizes.find(which);
    if (!data || (expected != sizes.end() && expected->second != size)) return INVALID;
    const auto* bytes = static_cast<const char*>(data);
    values[which].assign(bytes, bytes + size);
    return OK;
  }
  Status copy(int which, void* data, size_t size, size_t* written) const {
    const auto found = values.find(which);
    if (found == values.end()) return INVALID;
    if (written) *written = found->second.size();
    if (!size) return OK;
    if (size < found->second.size()) return INVALID;
    memcpy(data, found->second.data(), found->second.size());
    return OK;
  }
  template <class T> void put(int which, T value) { set(which, &value, sizeof value, {}); }
};

const std::map<int, size_t> PRODUCT_SIZES = {
    {0, 4}, {1, 4}, {POINTER_MODE, 4}, {TRANSA, 4}, {TRANSB, 4}, {EPILOGUE, 4}, {BIAS, 8},
    {BIAS_STRIDE, 8}, {AUX, 8}, {AUX_LD, 8}, {AUX_STRIDE, 8}, {AUX_TYPE, 4}, {BIAS_TYPE, 4}};
const std::map<int, size_t> LAYOUT_SIZES = {{TYPE, 4}, {ORDER, 4}, {ROWS, 8}, {COLS, 8},
                                            {LD, 8},   {BATCH, 4}, {STRIDE, 8}};
const std::map<int, size_t> PREFERENCE_SIZES = {{WORKSPACE_ATTRIBUTE, 8}};

struct Layout {
  int type, order, batch;
  int64_t rows, cols, ld, stride;

  explicit Layout(const Attributes& a)
      : type(a.get<int>(TYPE)), order(a.get<int>(ORDER)), batch(a.get<int>(BATCH, 1)),
        rows(a.get<int64_t>(ROWS)), cols(a.get<int64_t>(COLS)), ld(a.get<int64_t>(LD)),
        stride(a.get<int64_t>(STRIDE)) {}
  int64_t at(int64_t row, int64_t col, int64_t b) const {
    return b * stride + (order ? row * ld + col : row + col * ld);
  }
  bool is_valid() const {
    return rows > 0 && cols > 0 && batch > 0 && ld >= (order ? cols : rows) &&
           (order == 0 || order == 1);
  }
};

// -- values ---------------------------------------------------------------------------------------

using Complex = std::complex<double>;

float from_bits(uint32_t bits) {
  float f;
  memcpy(&f, &bits, 4);
  return f;
}

float half_to_float(uint16_t x) {
  const uint32_t sign = uint32_t{x} >> 15 << 31, exponent = (x >> 10) & 31, fraction = x & 1023;
  if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
  const float magnitude = exponent ? from_bits((exponent + 112) << 23 | fraction << 13)
                                   : std::ldexp(static_cast<float>(fraction), -24);
  return sign ? -magnitude : magnitude;
}

uint16_t float_to_half(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  const auto sign = static_cast<uint16_t>(bits >> 31 << 15);
  const float magnitude = std::fabs(f);
  if (std::isnan(f)) return sign | 0x7e00;
  if (magnitude >= 65520.0f) return sign | 0x7c00;
  if (magnitude < 0x1p-14f)
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(magnitude, 24)));
  bits = (bits & 0x7fffffff) + 0xfff + ((bits >> 13) & 1);
  return sign | static_cast<uint16_t>((bits - (112u << 23)) >> 13);
}

uint16_t float_to_bfloat16(float f) {
  uint32_t bits;
  memcpy(&bits, &f, 4);
  if (std::isnan(f)) return 0x7fff;
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

Complex load(const void* p, int type, int64_t i) {
  switch (type) {
    case F32: return static_cast<const float*>(p)[i];
    case F64: return static_cast<const double*>(p)[i];
    case F16: return half_to_float(static_cast<const uint16_t*>(p)[i]);
    case BF16: return from_bits(uint32_t{static_cast<const uint16_t*>(p)[i]} << 16);
    case I8: return static_cast<const int8_t*>(p)[i];
    case I32: return static_cast<const int32_t*>(p)[i];
    case C32: return Complex(static_cast<const std::complex<float>*>(p)[i]);
    default: return static_cast<const Complex*>(p)[i];
  }
}

double clamp(double x, double least, double greatest) {
  return x < least ? least : x > greatest ? greatest : std::nearbyint(x);
}

void store(void* p, int type, int64_t i, Complex x) {
  const double r = x.real();
  const auto f = static_cast<float>(r);
  switch (type) {
    case F32: static_cast<float*>(p)[i] = f; break;
    case F64: static_cast<double*>(p)[i] = r; break;
    case F16: static_cast<uint16_t*>(p)[i] = float_to_half(f); break;
    case BF16: static_cast<uint16_t*>(p)[i] = float_to_bfloat16(f); break;
    case I8: static_cast<int8_t*>(p)[i] = static_cast<int8_t>(clamp(r, -128, 127)); break;
    case I32: static_cast<int32_t*>(p)[i] = static_cast<int32_t>(static_cast<int64_t>(r)); break;
    case C32: static_cast<std::complex<float>*>(p)[i] = std::complex<float>(x); break;
    default: static_cast<Complex*>(p)[i] = x;
  }
}

bool is_complex(int type) { return type == C32 || type == C64; }

double gelu(double x) {
  return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

double gelu_slope(double x) {
  const double t = std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x));
  return 0.5 * (1 + t) +
         0.5 * x * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}

// -- a product ------------------------------------------------------------------------------------

struct Product {
  Attributes desc;
  Layout a, b, c, d;
  int compute, scale, epilogue, transa, transb;
  const void *A, *B, *C, *alpha, *beta;
  void* D;
  char alpha_value[16], beta_value[16];
  int64_t m, n, k;

  Product(const Attributes& desc, const Attributes& a, const Attributes& b, const Attributes& c,
          const Attributes& d)
      : desc(desc), a(a), b(b), c(c), d(d), compute(desc.get<int>(0)), scale(desc.get<int>(1)),
        epilogue(desc.get<int>(EPILOGUE, DEFAULT)), transa(desc.get<int>(TRANSA)),
        transb(desc.get<int>(TRANSB)), A(nullptr), B(nullptr), C(nullptr), alpha(nullptr),
        beta(nullptr), D(nullptr) {
    m = this->d.rows;
    n = this->d.cols;
    k = transa ? this->a.rows : this->a.cols;
  }

  bool types_are_supported() const {
    if (a.type != b.type || c.type != d.type) return false;
    if (compute == IN_F64 || compute == IN_F64 + 1)
      return a.type == scale && d.type == scale && (scale == F64 || scale == C64);
    if (compute == IN_I32 || compute == IN_I32 + 1)  // of plain orders only this form exists
      return a.type == I8 && scale == I32 && d.type == I32 && transa == 1 && !transb &&
             m % 4 == 0 && k % 4 == 0 && a.ld % 4 == 0 && b.ld % 4 == 0 && d.ld % 4 == 0;
    if (compute == IN_F16 || compute == IN_F16 + 1)
      return scale == F16 && a.type == F16 && d.type == F16;
    if (compute != IN_F32 && compute != IN_F32 + 1 && !(compute >= 74 && compute <= 78))
      return false;
    if (scale == C32) return a.type == C32 && d.type == C32;
    const bool fast = compute >= 74;
    if (a.type == F32) return scale == F32 && d.type == F32;
    if (a.type != F16 && a.type != BF16) return false;
    return scale == F32 && !fast && (d.type == a.type || d.type == F32);
  }

  Status check() const {
    for (const Layout* l : {&a, &b, &c, &d})
      if (!l->is_valid()) return INVALID;
    const int64_t rows_a = transa ? a.cols : a.rows;
    const int64_t rows_b = transb ? b.cols : b.rows, cols_b = transb ? b.rows : b.cols;
    if (rows_a != m || rows_b != k || cols_b != n || c.rows != m || c.cols != n) return INVALID;
    if (a.batch != d.batch || b.batch != d.batch || c.batch != d.batch) return INVALID;
    if (!types_are_supported() || desc.get<int>(POINTER_MODE) > 1) return NOT_SUPPORTED;
    bool known = false;
    for (const int e : EPILOGUES) known |= e == epilogue;
    if (!known || (epilogue != DEFAULT && (is_complex(d.type) || d.type == I32)))
      return NOT_SUPPORTED;
    const auto aux_ld = desc.get<int64_t>(AUX_LD);
    if (epilogue & WITH_AUX) {
      const int64_t unit = epilogue & (RELU | DRELU) ? 128 : 8;
      if (!desc.get<void*>(AUX) || aux_ld < m || aux_ld % unit) return INVALID;
    }
    if (wants_bias() && !desc.get<void*>(BIAS)) return INVALID;
    return OK;
  }
  bool wants_bias() const {
    return epilogue & (ADD_BIAS | BIAS_GRADIENT | GRADIENT_A | GRADIENT_B);
  }
  int bias_type() const { return desc.get<int>(BIAS_TYPE, d.type); }
  int aux_type() const { return desc.get<int>(AUX_TYPE, d.type); }

  Complex operand(const Layout& l, const void* p, int trans, int64_t i, int64_t j, int64_t q) const {
    const Complex x = load(p, l.type, trans ? l.at(j, i, q) : l.at(i, j, q));
    return trans == 2 ? std::conj(x) : x;
  }

  void run() const {
    const bool complex = is_complex(d.type);
    for (int64_t q = 0; q < d.batch; q++) {
      if (complex) {
        run_one<Complex>(q);
      } else {
        run_one<double>(q);
      }
    }
  }

  static Complex as(Complex x, Complex) { return x; }
  static double as(Complex x, double) { return x.real(); }

  template <class T> void run_one(int64_t q) const {
    std::vector<T> left(static_cast<size_t>(m * k)), right(static_cast<size_t>(k * n));
    for (int64_t i = 0; i < m; i++)
      for (int64_t p = 0; p < k; p++) left[i * k + p] = as(operand(a, A, transa, i, p, q), T{});
    for (int64_t p = 0; p < k; p++)
      for (int64_t j = 0; j < n; j++) right[p * n + j] = as(operand(b, B, transb, p, j, q), T{});
    const T times = as(load(alpha ? alpha : alpha_value, scale, 0), T{});
    const T keep = as(load(beta ? beta : beta_value, scale, 0), T{});
    std::vector<T> row(static_cast<size_t>(n));
    std::vector<double> bias_gradient(static_cast<size_t>(m));
    for (int64_t i = 0; i < m; i++) {
      std::fill(row.begin(), row.end(), T{});
      for (int64_t p = 0; p < k; p++)
        for (int64_t j = 0; j < n; j++) row[j] += left[i * k + p] * right[p * n + j];
      for (int64_t j = 0; j < n; j++) {
        T x = times * row[j];
        if (keep != T{}) x += keep * as(load(C, c.type, c.at(i, j, q)), T{});
        const Complex y = complete(Complex(x), i, j, q);
        bias_gradient[i] += y.real();
        store(D, d.type, d.at(i, j, q), y);
      }
    }
    if (epilogue & BIAS_GRADIENT) put_bias(bias_gradient, q);
    if (epilogue == GRADIENT_A || epilogue == GRADIENT_B) {
      std::vector<double> sums(static_cast<size_t>(epilogue == GRADIENT_A ? m : n));
      for (size_t s = 0; s < sums.size(); s++)
        for (int64_t p = 0; p < k; p++)
          sums[s] += std::real(Complex(epilogue == GRADIENT_A ? left[s * k + p]
                                                              : right[p * n + s]));
      put_bias(sums, q);
    }
  }

  void put_bias(const std::vector<double>& values, int64_t q) const {
    void* bias = desc.get<void*>(BIAS);
    const int64_t start = q * desc.get<int64_t>(BIAS_STRIDE);
    for (size_t i = 0; i < values.size(); i++)
      store(bias, bias_type(), start + static_cast<int64_t>(i), values[i]);
  }

  // Applies the epilogue to one element; a ReLU's auxiliary output is a matrix of bits.
  Complex complete(Complex x, int64_t i, int64_t j, int64_t q) const {
    if (epilogue & ADD_BIAS)
      x += load(desc.get<void*>(BIAS), bias_type(), q * desc.get<int64_t>(BIAS_STRIDE) + i);
    auto* aux = static_cast<unsigned char*>(desc.get<void*>(AUX));
    const int64_t at = q * desc.get<int64_t>(AUX_STRIDE) + i + j * desc.get<int64_t>(AUX_LD);
    const auto bit = static_cast<unsigned char>(1 << (at & 7));
    double r = x.real();
    if (epilogue & RELU) {
      const bool positive = r > 0;
      if (epilogue & WITH_AUX)
        aux[at >> 3] = static_cast<unsigned char>(positive ? aux[at >> 3] | bit
                                                           : aux[at >> 3] & ~bit);
      r = r != r ? r : positive ? r : 0;
    } else if (epilogue & DRELU) {
      r = aux[at >> 3] & bit ? r : 0;
    } else if (epilogue & GELU) {
      if (epilogue & WITH_AUX) store(aux, aux_type(), at, r);
      r = gelu(r);
    } else if (epilogue & DGELU) {
      r *= gelu_slope(load(aux, aux_type(), at).real());
    } else {
      return x;
    }
    return r;
  }
};

struct Algorithm { uint64_t data[8]; };  // number, MAGIC, workspace

struct Heuristic {
  Algorithm algorithm;
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

}  // namespace

// -- library --------------------------------------------------------------------------------------

API int cublasLtCreate(void** handle) {
  *handle = malloc(16);
  return OK;
}
API int cublasLtDestroy(void* handle) {
  free(handle);
  return OK;
}
API size_t cublasLtGetVersion() { return 130000; }
API size_t cublasLtGetCudartVersion() { return 13000; }
API int cublasLtGetProperty(int which, int* value) {
  *value = which == 0 ? 13 : 0;
  return OK;
}
API const char* cublasLtGetStatusName(int status) {
  static const std::map<int, const char*> names = {
      {OK, "CUBLAS_STATUS_SUCCESS"}, {NOT_INITIALIZED, "CUBLAS_STATUS_NOT_INITIALIZED"},
      {INVALID, "CUBLAS_STATUS_INVALID_VALUE"}, {FAILED, "CUBLAS_STATUS_EXECUTION_FAILED"},
      {NOT_SUPPORTED, "CUBLAS_STATUS_NOT_SUPPORTED"}};
  const auto found = names.find(status);
  return found == names.end() ? "CUBLAS_STATUS_INTERNAL_ERROR" : found->second;
}
API const char* cublasLtGetStatusString(int status) { return cublasLtGetStatusName(status); }
API int cublasLtLoggerSetLevel(int) { return OK; }
API int cublasLtLoggerForceDisable() { return OK; }

// -- descriptors ----------------------------------------------------------------------------------

#define DESCRIPTOR(Name, SIZES)                                                             \
  API int Name##Destroy(Attributes* a) {                                                    \
    delete a;                                                                               \
    return OK;                                                                              \
  }                                                                                         \
  API int Name##SetAttribute(Attributes* a, int which, const void* data, size_t size) {     \
    return a->set(which, data, size, SIZES);                                                \
  }                                                                                         \
  API int Name##GetAttribute(const Attributes* a, int which, void* data, size_t size,       \
                             size_t* written) {                                             \
    return a->copy(which, data, size, written);                                             \
  }
DESCRIPTOR(cublasLtMatmulDesc, PRODUCT_SIZES)
DESCRIPTOR(cublasLtMatrixLayout, LAYOUT_SIZES)
DESCRIPTOR(cublasLtMatmulPreference, PREFERENCE_SIZES)

API int cublasLtMatmulDescCreate(Attributes** out, int compute, int scale) {
  *out = new Attributes;
  (*out)->put(0, compute);
  (*out)->put(1, scale);
  (*out)->put(POINTER_MODE, 0);
  (*out)->put(TRANSA, 0);
  (*out)->put(TRANSB, 0);
  (*out)->put(EPILOGUE, int{DEFAULT});
  return OK;
}

API int cublasLtMatrixLayoutCreate(Attributes** out, int type, uint64_t rows, uint64_t cols,
                                   int64_t ld) {
  *out = new Attributes;
  (*out)->put(TYPE, type);
  (*out)->put(ORDER, 0);
  (*out)->put(ROWS, rows);
  (*out)->put(COLS, cols);
  (*out)->put(LD, ld);
  (*out)->put(BATCH, 1);
  (*out)->put(STRIDE, int64_t{0});
  return OK;
}

API int cublasLtMatmulPreferenceCreate(Attributes** out) {
  *out = new Attributes;
  (*out)->put(WORKSPACE_ATTRIBUTE, uint64_t{0});
  return OK;
}

// -- products -------------------------------------------------------------------------------------

API int cublasLtMatmulAlgoGetHeuristic(void* handle, const Attributes* desc, const Attributes* a,
                                       const Attributes* b, const Attributes* c,
                                       const Attributes* d, const Attributes* preference,
                                       int wanted, Heuristic* out, int* count) {
  *count = 0;
  if (!handle) return NOT_INITIALIZED;
  if (wanted < 1) return INVALID;
  if (const Status wrong = Product(*desc, *a, *b, *c, *d).check()) return wrong;
  const uint64_t most = preference->get<uint64_t>(WORKSPACE_ATTRIBUTE);
  const uint64_t workspaces[] = {uint64_t{1} << 20, 0, 4096};
  for (uint64_t number = 0; number < 3 && *count < wanted; number++) {
    if (workspaces[number] > most) continue;
    Heuristic& h = out[(*count)++];
    memset(&h, 0, sizeof h);
    h.algorithm = {{number, MAGIC, workspaces[number]}};
    h.workspace = workspaces[number];
    h.waves = 1;
  }
  return OK;
}

API int cublasLtMatmulAlgoCheck(void*, const Attributes* desc, const Attributes* a,
                                const Attributes* b, const Attributes* c, const Attributes* d,
                                const Algorithm* algorithm, Heuristic* out) {
  if (algorithm->data[1] != MAGIC) return INVALID;
  if (const Status wrong = Product(*desc, *a, *b, *c, *d).check()) return wrong;
  memset(out, 0, sizeof *out);
  out->algorithm = *algorithm;
  out->workspace = algorithm->data[2];
  return OK;
}

API int cublasLtMatmul(void* handle, const Attributes* desc, const void* alpha, const void* A,
                       const Attributes* a, const void* B, const Attributes* b, const void* beta,
                       const void* C, const Attributes* c, void* D, const Attributes* d,
                       const Algorithm* algorithm, void* workspace, size_t size, void* stream) {
  if (!handle) return NOT_INITIALIZED;
  if (!alpha || !beta || !A || !B || !C || !D) return INVALID;
  auto* p = new Product(*desc, *a, *b, *c, *d);
  Status wrong = p->check();
  if (algorithm && algorithm->data[1] != MAGIC) wrong = INVALID;
  const uint64_t wants = algorithm ? algorithm->data[2] : 0;
  if (wants > size || (wants && (!workspace || reinterpret_cast<uintptr_t>(workspace) % 16)))
    wrong = INVALID;
  if (wrong) {
    delete p;
    return wrong;
  }
  p->A = A;
  p->B = B;
  p->C = C;
  p->D = D;
  if (desc->get<int>(POINTER_MODE)) {  // numbers on the device are read when the work is done
    p->alpha = alpha;
    p->beta = beta;
  } else {
    const size_t bytes = p->scale == C64 ? 16 : p->scale == F64 || p->scale == C32 ? 8
                         : p->scale == F16 ? 2 : 4;
    memcpy(p->alpha_value, alpha, bytes);
    memcpy(p->beta_value, beta, bytes);
  }
  struct Work {
    Product* product;
    void* workspace;
    uint64_t used;
  };
  const auto run = [](void* data) {
    const auto* w = static_cast<Work*>(data);
    w->product->run();
    if (w->used) memset(w->workspace, 0xFF, w->used);  // it belongs to this product meanwhile
  };
  const auto destroy = [](void* data) {
    delete static_cast<Work*>(data)->product;
    delete static_cast<Work*>(data);
  };
  return simulator_submit(stream, run, new Work{p, workspace, wants}, destroy) ? FAILED : OK;
}
