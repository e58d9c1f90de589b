/*
 * cuda_linear.cu - `linear` by cuBLASLt. Row-major to its column-major: D [out x n] = W^T [in x out] X [in x n].
 *
 * A product is done in one of several ways; the first that suits the operands and that cuBLASLt has an algorithm for is taken. What
 * follows the product is done by cuBLASLt where it can, and else by one kernel that reads the product from scratch.
 */
#include "ops/cuda/cuda_decode.h"

#include <cstdlib>
#include <cstring>
#include <type_traits>

/* ---- plans -------------------------------------------------------------------------------------------------------------- */

/* A product as cuBLASLt sees it: m = out, n = rows of x, k = in. Compared as bytes, so there is no padding. */
struct plan_key {
    int64_t m, n, k, lda, ldb, ldd;
    int64_t n_sms;                           /* multiprocessors to take; 0: all */
    int32_t type, result;                    /* cudaDataType: of both operands; of D */
    int32_t epilogue, adds, scaled;          /* cublasLtEpilogue_t; whether C = D; whether both operands have vectors of scales */
    int32_t a_aligned, b_aligned, d_aligned; /* bytes, at most 16 */
};

struct plan {
    plan *next; /* of its bucket */
    plan_key key;
    bool found; /* an algorithm; all the rest is void without */
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t a, b, d;
    cublasLtMatmulAlgo_t algorithm;
};

enum { N_BUCKETS = 1024 };

/*
 * Products of fp8 sum as the tensor cores of Hopper do it fastest, with 14 bits of mantissa: at a depth of 12288 that takes the
 * error of a product, which comes from rounding to e4m3, from 3.74 to 3.75 % (docs/numerics.md), and 10 % off a step.
 */
enum { F8_SUMS_FAST = 1 };

/*
 * Of a product that spares: with fewer it takes about as long as its weights need from the memory. It leaves half of the
 * multiprocessors to what is done beside it.
 */
enum { ROWS_OF_SMALL = 256 };

/* Of a result, below which speed is not the question. */
enum { FEW_NUMBERS = 1 << 16 };

struct ink_cuda_linear {
    plan *buckets[N_BUCKETS];
};

bool ink_cuda_linear_open(ink_cuda *c) {
    c->linear = static_cast<ink_cuda_linear *>(calloc(1, sizeof *c->linear));
    if (!c->linear) ink_cuda_fail(c, "linear: no memory for plans");
    return c->linear != nullptr;
}

static void destroy_plan(plan *p) {
    if (p->product) cublasLtMatmulDescDestroy(p->product);
    if (p->a) cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) cublasLtMatrixLayoutDestroy(p->b);
    if (p->d) cublasLtMatrixLayoutDestroy(p->d);
    free(p);
}

void ink_cuda_linear_close(ink_cuda *c) {
    if (!c->linear) return;
    for (int i = 0; i < N_BUCKETS; i++)
        for (plan *p = c->linear->buckets[i], *next; p; p = next) {
            next = p->next;
            destroy_plan(p);
        }
    free(c->linear);
    c->linear = nullptr;
}

template <typename T> static bool set(plan *p, cublasLtMatmulDescAttributes_t attribute, T value) {
    return cublasLtMatmulDescSetAttribute(p->product, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
}

/* The vectors of a product. Heuristics look at whether they are there and at their alignment, so a plan is made with any address.
 */
static bool set_vectors(plan *p, const void *bias, const float *a_scales, const float *b_scales) {
    bool ok = true;
    if (p->key.epilogue & CUBLASLT_EPILOGUE_BIAS) ok = set(p, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
    if (p->key.scaled)
        ok = ok && set(p, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, a_scales) && set(p, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, b_scales);
    return ok;
}

static bool describe(ink_cuda *c, plan *p) {
    const plan_key &k = p->key;
    const cudaDataType type = (cudaDataType)k.type, result = (cudaDataType)k.result;
    if (cublasLtMatmulDescCreate(&p->product, CUBLAS_COMPUTE_32F, CUDA_R_32F) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatrixLayoutCreate(&p->a, type, (uint64_t)k.k, (uint64_t)k.m, k.lda) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatrixLayoutCreate(&p->b, type, (uint64_t)k.k, (uint64_t)k.n, k.ldb) != CUBLAS_STATUS_SUCCESS ||
        cublasLtMatrixLayoutCreate(&p->d, result, (uint64_t)k.m, (uint64_t)k.n, k.ldd) != CUBLAS_STATUS_SUCCESS)
        return false;
    bool ok = set(p, CUBLASLT_MATMUL_DESC_TRANSA, (int32_t)CUBLAS_OP_T) &&
              set(p, CUBLASLT_MATMUL_DESC_EPILOGUE, (uint32_t)k.epilogue);
    if (k.epilogue & CUBLASLT_EPILOGUE_BIAS) ok = ok && set(p, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, k.result);
    if (type == CUDA_R_8F_E4M3) ok = ok && set(p, CUBLASLT_MATMUL_DESC_FAST_ACCUM, (int8_t)F8_SUMS_FAST);
    if (k.scaled)
        ok = ok && set(p, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, (int32_t)CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F) &&
             set(p, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, (int32_t)CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F);
    if (k.n_sms) ok = ok && set(p, CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET, (int32_t)k.n_sms);
    const float *some = static_cast<const float *>(c->blas_workspace);
    return ok && set_vectors(p, some, some, some);
}

template <typename T>
static bool prefer(cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
    return cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value) == CUBLAS_STATUS_SUCCESS;
}

/*
 * The algorithm of a plan: the heuristic's first, the same in every run. A search by time, once per shape, would stand here.
 * Sums of parts of the depth must be taken in f32: other ways to reduce them round to D's type or wait for counters.
 */
static bool choose(ink_cuda *c, plan *p) {
    cublasLtMatmulPreference_t preference;
    if (cublasLtMatmulPreferenceCreate(&preference) != CUBLAS_STATUS_SUCCESS) return false;
    cublasLtMatmulHeuristicResult_t result;
    int n_found = 0;
    bool ok = prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)c->blas_workspace_bytes) &&
              prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) &&
              prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)p->key.a_aligned) &&
              prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)p->key.b_aligned) &&
              prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)p->key.d_aligned) &&
              prefer(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)p->key.d_aligned) &&
              cublasLtMatmulAlgoGetHeuristic(c->blas, p->product, p->a, p->b, p->d, p->d, preference, 1, &result, &n_found) ==
                  CUBLAS_STATUS_SUCCESS &&
              n_found > 0 && result.state == CUBLAS_STATUS_SUCCESS && result.workspaceSize <= c->blas_workspace_bytes;
    if (ok) p->algorithm = result.algo;
    cublasLtMatmulPreferenceDestroy(preference);
    return ok;
}

static size_t bucket_of(const plan_key &key) {
    uint64_t words[sizeof key / sizeof(uint64_t)], hash = 0;
    static_assert(sizeof words == sizeof key, "a key is whole words");
    memcpy(words, &key, sizeof key);
    for (uint64_t word : words) {
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return hash % N_BUCKETS;
}

/* NULL where cuBLASLt has no algorithm, which is remembered as well. */
static plan *plan_of(ink_cuda *c, plan_key key) {
    if (c->spares && key.n <= ROWS_OF_SMALL) key.n_sms = c->n_sms / 2;
    plan **bucket = &c->linear->buckets[bucket_of(key)];
    for (plan *p = *bucket; p; p = p->next)
        if (memcmp(&p->key, &key, sizeof key) == 0) return p->found ? p : nullptr;
    plan *p = static_cast<plan *>(calloc(1, sizeof *p));
    if (!p) {
        ink_cuda_fail(c, "linear: no memory for a plan");
        return nullptr;
    }
    p->key = key;
    p->found = describe(c, p) && choose(c, p);
    p->next = *bucket;
    *bucket = p;
    return p->found ? p : nullptr;
}

/* Vectors are NULL unless the plan has them. */
struct vectors {
    const void *bias;
    const float *a_scales, *b_scales;
};

/* d = a^T b, or += that. */
static void multiply(ink_cuda *c, plan *p, void *d, const void *a, const void *b, vectors v) {
    const float alpha = 1, beta = p->key.adds ? 1 : 0;
    if (ink_cuda_failed(c)) return;
    if (!set_vectors(p, v.bias, v.a_scales, v.b_scales)) {
        ink_cuda_fail(c, "linear: cuBLASLt refuses the address of a vector");
        return;
    }
    ink_cuda_ok(c,
                cublasLtMatmul(c->blas, p->product, &alpha, a, p->a, b, p->b, &beta, d, p->d, d, p->d, &p->algorithm,
                               c->blas_workspace, c->blas_workspace_bytes, c->stream),
                "linear");
}

/* ---- what follows a product --------------------------------------------------------------------------------------------- */

/* dst = (+=) act(acc * scales + acc2 + bias) * gate; all but acc and dst may be NULL. */
struct finish {
    const void *acc, *acc2; /* of one type [rows, ld] */
    int64_t ld;
    const float *row_scales, *col_scales;
    const void *bias, *gate;
    bool bias_rounded, gate_rounded; /* they are bf16 */
    bool adds;
    ink_activation activation;
    void *dst;
    int64_t stride, rows, cols;
};

static __device__ float activate(ink_activation activation, float v) {
    const float sqrt_2_over_pi = 0.79788456080286535588f;
    if (activation == INK_ACT_GELU_TANH) return 0.5f * v * (1.0f + tanhf(sqrt_2_over_pi * (v + 0.044715f * v * v * v)));
    if (activation == INK_ACT_SILU) return v / (1.0f + expf(-v));
    return v;
}

static __device__ float load_vector(const void *vector, bool rounded, int64_t i) {
    return rounded ? ink_load(static_cast<const __nv_bfloat16 *>(vector) + i) : ink_load(static_cast<const float *>(vector) + i);
}

static __device__ void load_vector8(const void *vector, bool rounded, int64_t i, float v[INK_PIECE]) {
    if (rounded)
        ink_load8(static_cast<const __nv_bfloat16 *>(vector) + i, v);
    else
        ink_load8(static_cast<const float *>(vector) + i, v);
}

template <typename A, typename T> static __device__ void finish_one(const finish &f, int64_t row, int64_t col) {
    float v = ink_load(static_cast<const A *>(f.acc) + row * f.ld + col);
    if (f.row_scales) v *= f.row_scales[row] * f.col_scales[col];
    if (f.acc2) v += ink_load(static_cast<const A *>(f.acc2) + row * f.ld + col);
    if (f.bias) v += load_vector(f.bias, f.bias_rounded, col);
    v = activate(f.activation, v);
    if (f.gate) v *= load_vector(f.gate, f.gate_rounded, col);
    T *to = static_cast<T *>(f.dst) + row * f.stride + col;
    ink_store(to, f.adds ? ink_load(to) + v : v);
}

template <typename A, typename T, bool ALIGNED>
static __global__ void __launch_bounds__(INK_PIECE_LANES *INK_PIECE_ROWS) finish_kernel(finish f) {
    const int64_t col = ((int64_t)blockIdx.x * INK_PIECE_LANES + threadIdx.x) * INK_PIECE;
    const int64_t first = (int64_t)blockIdx.y * INK_PIECE_ROWS + threadIdx.y, step = (int64_t)gridDim.y * INK_PIECE_ROWS;
    if (col >= f.cols) return;
    if constexpr (!ALIGNED) {
        for (int64_t row = first; row < f.rows; row += step)
            for (int64_t k = col; k < col + INK_PIECE && k < f.cols; k++) finish_one<A, T>(f, row, k);
        return;
    }
    float bias[INK_PIECE] = {0}, gate[INK_PIECE], scale[INK_PIECE], v[INK_PIECE], w[INK_PIECE];
    if (f.bias) load_vector8(f.bias, f.bias_rounded, col, bias);
    if (f.gate) load_vector8(f.gate, f.gate_rounded, col, gate);
    if (f.row_scales) ink_load8(f.col_scales + col, scale);
    for (int64_t row = first; row < f.rows; row += step) {
        T *to = static_cast<T *>(f.dst) + row * f.stride + col;
        ink_load8(static_cast<const A *>(f.acc) + row * f.ld + col, v);
        if (f.row_scales) {
            const float of_row = f.row_scales[row];
#pragma unroll
            for (int j = 0; j < INK_PIECE; j++) v[j] *= of_row * scale[j];
        }
        if (f.acc2) {
            ink_load8(static_cast<const A *>(f.acc2) + row * f.ld + col, w);
#pragma unroll
            for (int j = 0; j < INK_PIECE; j++) v[j] += w[j];
        }
        if (f.adds) ink_load8(to, w);
#pragma unroll
        for (int j = 0; j < INK_PIECE; j++) {
            v[j] = activate(f.activation, v[j] + bias[j]);
            if (f.gate) v[j] *= gate[j];
            if (f.adds) v[j] += w[j];
        }
        ink_store8(to, v);
    }
}

template <typename A, typename T> static void launch_finish(ink_cuda *c, const finish &f, ink_dtype dst_type) {
    const bool aligned = f.cols % INK_PIECE == 0 && ink_rows_aligned(f.dst, f.stride, dst_type) && ink_is_aligned(f.bias, 16) &&
                         ink_is_aligned(f.gate, 16);
    const dim3 grid = ink_piece_grid(f.rows, f.cols), block = ink_piece_block();
    if (aligned)
        finish_kernel<A, T, true><<<grid, block, 0, c->stream>>>(f);
    else
        finish_kernel<A, T, false><<<grid, block, 0, c->stream>>>(f);
    ink_cuda_launched(c, "the end of linear");
}

/* ---- a call ------------------------------------------------------------------------------------------------------------- */

/* Ways to do the product, and the units that operands must be made of: elements of 16 bytes, but for f32 as it comes. */
enum way {
    EXACT,      /* f32, wherever the operands lie */
    EXACT_ELSE, /* f32, copied to where there is no reason to refuse them */
    ROUNDED,    /* bf16 */
    F8_SCALED,  /* fp8, scales applied by cuBLASLt */
    F8_PLAIN    /* fp8, scales applied after */
};

/* An operand, or a vector: where it lies, or at which byte of the scratch it is to be made. */
struct operand {
    const void *in_place;
    size_t at;
    int64_t ld;
};

/* A product that is added to another: low up^T. */
struct branch {
    plan *product;
    ink_dtype type;
    int parts; /* 2: low in two parts of bf16, one after the other */
    operand up, low;
};

struct job {
    ink_cuda *c;
    ink_tensor dst, x;
    const ink_weight *w;
    const ink_linear_epilogue *e;
    way how;
    size_t scratch_bytes;
    plan *product;
    int parts; /* 2: x in two parts of bf16, one above the other */
    operand weight, rows, weight_scales, row_scales;
    bool direct;        /* the product goes to dst, with all that follows */
    operand bias;       /* if direct */
    ink_dtype acc_type; /* if not: where it goes */
    operand acc;
    branch low;
};

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

static bool is_f8(way how) { return how == F8_SCALED || how == F8_PLAIN; }

static ink_dtype floats_of(way how) { return how == EXACT || how == EXACT_ELSE ? INK_F32 : INK_BF16; }

static int64_t unit_of(way how) { return how == EXACT ? 1 : how == EXACT_ELSE ? 4 : 8; }

static cudaDataType data_type(ink_dtype type) { return type == INK_F32 ? CUDA_R_32F : CUDA_R_16BF; }

static int32_t alignment(const operand &o) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(o.in_place); /* scratch is aligned to more */
    return address % 16 == 0 ? 16 : address % 8 == 0 ? 8 : address % 4 == 0 ? 4 : 2;
}

static operand take(job *j, size_t bytes, int64_t ld) {
    operand o = {nullptr, j->scratch_bytes, ld};
    j->scratch_bytes += ink_cuda_aligned(bytes);
    return o;
}

/* Rows of floats in place, where they are of that type and made of units, or room for them. */
static operand place(job *j, const void *data, ink_dtype stored, int64_t stride, int64_t rows, int64_t cols, ink_dtype type,
                     int64_t unit, int parts) {
    const bool fits = stored == type && parts == 1 && cols % unit == 0 && (unit == 1 || ink_rows_aligned(data, stride, type));
    if (fits) return operand{data, 0, stride};
    const int64_t ld = round_up(cols, unit);
    return take(j, (size_t)(parts * rows * ld) * ink_size_of(type), ld);
}

static void *address(const operand &o, char *scratch) { return o.in_place ? const_cast<void *>(o.in_place) : scratch + o.at; }

/*
 * Whether x is to be rounded to e4m3 and multiplied by the weight as it is stored: three bits of mantissa in place of seven, which
 * is what the caller asks for who stores weights so and may round. False for all turns it off.
 */
static bool suits_f8(const job *j) {
    return j->w->dtype == INK_F8_E4M3 && j->e->may_round && j->c->major * 10 + j->c->minor >= 89 && j->w->cols % 16 == 0 &&
           j->w->rows % 16 == 0 && ink_is_aligned(j->w->data, 16) && ink_cuda_quantizes(j->x);
}

static plan_key key_of(const job *j, ink_dtype result, const operand &d) {
    plan_key key = {};
    key.m = j->dst.cols;
    key.n = j->x.rows * j->parts;
    key.k = round_up(j->x.cols, unit_of(j->how));
    key.lda = j->weight.ld;
    key.ldb = j->rows.ld;
    key.ldd = d.ld;
    key.type = is_f8(j->how) ? CUDA_R_8F_E4M3 : data_type(floats_of(j->how));
    key.result = data_type(result);
    key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    key.scaled = j->how == F8_SCALED;
    key.a_aligned = alignment(j->weight);
    key.b_aligned = alignment(j->rows);
    key.d_aligned = alignment(d);
    return key;
}

/* The product and all that follows in one, if that is possible. */
static bool lay_out_direct(job *j) {
    const ink_linear_epilogue *e = j->e;
    const ink_dtype type = j->dst.type;
    const bool exact = floats_of(j->how) == INK_F32;
    /* cuBLASLt's gelu is the one by tanh, as close as bf16 needs it; and its bias of an f32 result of fp8 is of another type. */
    const bool activates = e->activation == INK_ACT_NONE || (e->activation == INK_ACT_GELU_TANH && type == INK_BF16);
    if (e->low || e->gate || j->parts > 1 || j->how == F8_PLAIN || !activates || (e->add_to_dst && e->activation != INK_ACT_NONE))
        return false;
    /* A bias must not lose what it has. For few numbers cuBLASLt takes kernels that add to what is rounded already. */
    const bool follows = e->bias || e->add_to_dst || e->activation != INK_ACT_NONE;
    if (type == INK_BF16 && e->bias && e->bias->type == INK_F32) return false;
    if (type == INK_BF16 && follows && j->dst.rows * j->dst.cols < FEW_NUMBERS) return false;
    if (exact ? type != INK_F32 : is_f8(j->how) && type == INK_F32 && e->bias) return false;
    if (unit_of(j->how) > 1 && !ink_rows_aligned(j->dst.data, j->dst.stride, type)) return false;
    plan_key key = key_of(j, type, operand{j->dst.data, 0, j->dst.stride});
    if (e->activation == INK_ACT_GELU_TANH)
        key.epilogue = e->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
    else if (e->bias)
        key.epilogue = CUBLASLT_EPILOGUE_BIAS;
    key.adds = e->add_to_dst;
    j->product = plan_of(j->c, key);
    if (!j->product) return false;
    if (e->bias) {
        const ink_tensor &bias = *e->bias;
        const bool fits = bias.type == type && ink_is_aligned(bias.data, 16);
        j->bias = fits ? operand{bias.data, 0, 0} : take(j, (size_t)bias.cols * ink_size_of(type), bias.cols);
    }
    return true;
}

/* Adds low up^T to an f32 accumulator: with weights in f32, and where nothing may be rounded and `up` is f32, in f32. */
static bool lay_out_branch(job *j) {
    const ink_linear_epilogue *e = j->e;
    const ink_weight *up = j->w->up;
    const ink_tensor &low = *e->low;
    branch *b = &j->low;
    const bool exact = floats_of(j->how) == INK_F32 || (up->dtype == INK_F32 && !e->may_round);
    const way how = !exact ? ROUNDED : j->how == EXACT ? EXACT : EXACT_ELSE;
    const int64_t unit = unit_of(how);
    b->type = floats_of(how);
    b->parts = exact || low.type == INK_BF16 || e->may_round ? 1 : 2;
    b->up = place(j, up->data, up->dtype, up->cols, up->rows, up->cols, b->type, unit, 1);
    b->low = place(j, low.data, low.type, low.stride, low.rows, low.cols, b->type, unit, b->parts);
    plan_key key = {};
    key.m = j->dst.cols;
    key.n = low.rows;
    key.k = round_up(low.cols, unit);
    key.lda = b->up.ld;
    key.ldb = b->low.ld;
    key.ldd = j->acc.ld;
    key.type = data_type(b->type);
    key.result = CUDA_R_32F;
    key.epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    key.adds = 1;
    key.a_aligned = alignment(b->up);
    key.b_aligned = alignment(b->low);
    key.d_aligned = 16;
    b->product = plan_of(j->c, key);
    return b->product != nullptr;
}

/* Plans, and a place in scratch for all that must be made. False where cuBLASLt cannot. */
static bool lay_out(job *j, way how) {
    const ink_linear_epilogue *e = j->e;
    const int64_t n = j->x.rows, in = j->x.cols, out = j->dst.cols, unit = unit_of(how);
    const ink_dtype type = floats_of(how);
    j->how = how;
    j->scratch_bytes = 0;
    j->parts = how == ROUNDED && j->x.type == INK_F32 && !e->may_round ? 2 : 1;
    if (is_f8(how)) {
        const ink_weight *w = j->w;
        const bool scales_fit = w->scales && w->scale_dtype == INK_F32 && w->n_scales == out && ink_is_aligned(w->scales, 16);
        j->weight = operand{w->data, 0, in};
        j->rows = take(j, (size_t)(n * in), in);
        j->row_scales = take(j, (size_t)n * sizeof(float), 0);
        j->weight_scales = scales_fit ? operand{w->scales, 0, 0} : take(j, (size_t)out * sizeof(float), 0);
    } else {
        j->weight = place(j, j->w->data, j->w->dtype, in, out, in, type, unit, 1);
        j->rows = place(j, j->x.data, j->x.type, j->x.stride, n, in, type, unit, j->parts);
    }
    j->direct = lay_out_direct(j);
    if (j->direct) return true;
    /* A gated product is a share of what it is added to: there bf16 is enough, and half of what goes through memory. */
    const bool may_round = e->may_round && e->gate && type != INK_F32 && !e->low &&
                           (j->dst.type == INK_BF16 || j->x.type == INK_BF16);
    j->acc_type = may_round ? INK_BF16 : INK_F32;
    const int64_t acc_ld = round_up(out, INK_PIECE);
    j->acc = take(j, (size_t)(j->parts * n * acc_ld) * ink_size_of(j->acc_type), acc_ld);
    j->product = plan_of(j->c, key_of(j, j->acc_type, j->acc));
    return j->product && (!e->low || lay_out_branch(j));
}

/* Makes the operands that are not used in place. */
static void make_operands(const job *j, char *scratch) {
    const ink_dtype type = floats_of(j->how);
    if (is_f8(j->how)) {
        ink_cuda_quantize_rows(j->c, static_cast<uint8_t *>(address(j->rows, scratch)),
                               static_cast<float *>(address(j->row_scales, scratch)), j->x);
        if (!j->weight_scales.in_place)
            ink_cuda_decode_scales(j->c, static_cast<float *>(address(j->weight_scales, scratch)), j->w);
        return;
    }
    if (!j->weight.in_place) ink_cuda_decode_weight(j->c, address(j->weight, scratch), type, j->weight.ld, j->w);
    if (j->rows.in_place) return;
    __nv_bfloat16 *high = static_cast<__nv_bfloat16 *>(address(j->rows, scratch));
    if (j->parts == 2)
        ink_cuda_split_panel(j->c, high, high + j->x.rows * j->rows.ld, j->rows.ld, j->x);
    else
        ink_cuda_panel(j->c, high, type, j->rows.ld, j->x);
}

static void add_branch(const job *j, char *scratch, void *acc) {
    const branch *b = &j->low;
    const ink_tensor &low = *j->e->low;
    void *up = address(b->up, scratch), *rows = address(b->low, scratch);
    if (!b->up.in_place) ink_cuda_decode_weight(j->c, up, b->type, b->up.ld, j->w->up);
    if (b->parts == 1) {
        if (!b->low.in_place) ink_cuda_panel(j->c, rows, b->type, b->low.ld, low);
        multiply(j->c, b->product, acc, up, rows, vectors{});
        return;
    }
    __nv_bfloat16 *high = static_cast<__nv_bfloat16 *>(rows), *rest = high + low.rows * b->low.ld;
    ink_cuda_split_panel(j->c, high, rest, b->low.ld, low);
    multiply(j->c, b->product, acc, up, rest, vectors{});
    multiply(j->c, b->product, acc, up, high, vectors{});
}

static void finish_product(const job *j, const char *acc, const float *row_scales, const float *col_scales) {
    const ink_linear_epilogue *e = j->e;
    finish f = {};
    f.acc = acc;
    f.ld = j->acc.ld;
    if (j->parts == 2) f.acc2 = acc + (size_t)(j->x.rows * f.ld) * ink_size_of(j->acc_type);
    f.row_scales = row_scales;
    f.col_scales = col_scales;
    if (e->bias) f.bias = e->bias->data, f.bias_rounded = e->bias->type == INK_BF16;
    if (e->gate) f.gate = e->gate->data, f.gate_rounded = e->gate->type == INK_BF16;
    f.adds = e->add_to_dst;
    f.activation = e->activation;
    f.dst = j->dst.data;
    f.stride = j->dst.stride;
    f.rows = j->dst.rows;
    f.cols = j->dst.cols;
    ink_with_type(j->dst, [&](auto *p) {
        using T = std::remove_pointer_t<decltype(p)>;
        if (j->acc_type == INK_F32)
            launch_finish<float, T>(j->c, f, j->dst.type);
        else
            launch_finish<__nv_bfloat16, T>(j->c, f, j->dst.type);
    });
}

static void carry_out(const job *j) {
    char *scratch = j->scratch_bytes ? static_cast<char *>(ink_cuda_scratch(j->c, j->scratch_bytes)) : nullptr;
    if (ink_cuda_failed(j->c) || (j->scratch_bytes && !scratch)) return;
    make_operands(j, scratch);
    const void *weight = address(j->weight, scratch), *rows = address(j->rows, scratch);
    vectors v = {};
    const float *row_scales = nullptr, *col_scales = nullptr;
    if (is_f8(j->how)) {
        row_scales = static_cast<const float *>(address(j->row_scales, scratch));
        col_scales = static_cast<const float *>(address(j->weight_scales, scratch));
    }
    if (j->how == F8_SCALED) v.a_scales = col_scales, v.b_scales = row_scales;
    if (j->direct) {
        if (j->e->bias) {
            v.bias = address(j->bias, scratch);
            if (!j->bias.in_place) ink_cuda_panel(j->c, const_cast<void *>(v.bias), j->dst.type, j->bias.ld, *j->e->bias);
        }
        multiply(j->c, j->product, j->dst.data, weight, rows, v);
        return;
    }
    char *acc = static_cast<char *>(address(j->acc, scratch));
    multiply(j->c, j->product, acc, weight, rows, v);
    if (j->e->low) add_branch(j, scratch, acc);
    const bool scales_left = j->how == F8_PLAIN;
    finish_product(j, acc, scales_left ? row_scales : nullptr, scales_left ? col_scales : nullptr);
}

void ink_cuda_op_linear(const ink_device *device, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || dst.rows <= 0 || dst.cols <= 0) return;
    job j = {};
    j.c = c;
    j.dst = dst;
    j.x = x;
    j.w = w;
    j.e = &e;
    way ways[3];
    int n_ways = 0;
    if (!ink_cuda_decodes(w) || (e.low && !ink_cuda_decodes(w->up))) {
        ink_cuda_fail(c, "linear: weight %s has a form that is not decoded on the device", w->name ? w->name : "without a name");
        return;
    }
    if (w->dtype == INK_F32) {
        ways[n_ways++] = EXACT;
        ways[n_ways++] = EXACT_ELSE;
    } else {
        if (suits_f8(&j)) {
            if (c->major == 9) ways[n_ways++] = F8_SCALED;
            /* The branch is added before the scales are applied. */
            if (!e.low) ways[n_ways++] = F8_PLAIN;
        }
        ways[n_ways++] = ROUNDED;
    }
    for (int i = 0; i < n_ways; i++)
        if (lay_out(&j, ways[i])) {
            carry_out(&j);
            return;
        }
    ink_cuda_fail(c, "linear: cuBLASLt has no algorithm for x [%lld, %lld], stride %lld, by weight %s of form %d to %lld columns",
                  (long long)x.rows, (long long)x.cols, (long long)x.stride, w->name ? w->name : "", (int)w->dtype,
                  (long long)dst.cols);
}
