/*
 * cuda_attention_cudnn.cpp - cuDNN's fused attention, by its C++ front end. The library is opened when it is first asked for; a
 * graph is built once for each shape and kept.
 */
#include "ops/cuda/cuda_attention.h"

#define NV_CUDNN_FRONTEND_USE_DYNAMIC_LOADING
#include <cudnn_frontend.h>

#include <cstring>
#include <dlfcn.h>
#include <map>
#include <memory>
#include <new>
#include <unordered_map>

namespace fe = cudnn_frontend;

/* The front end wants it by this name: cuDNN, once it is open. The same for every state. */
void *cudnn_frontend::cudnn_dlhandle = nullptr;

/* Its destructor must not be seen by those who open the state. */
typedef std::shared_ptr<fe::graph::Graph> graph_pointer;

static bool operator<(const ink_cuda_attention &a, const ink_cuda_attention &b) {
    return memcmp(&a, &b, sizeof a) < 0; /* there is no padding: eight words, a float and an int */
}

struct ink_cuda_cudnn {
    cudnnHandle_t handle;                               /* NULL: there is no library, or one that does not work */
    std::map<ink_cuda_attention, graph_pointer> graphs; /* an empty one: cuDNN cannot */
};

/* NULL where memory is out. */
static ink_cuda_cudnn *state_of(ink_cuda *c) {
    if (c->cudnn) return c->cudnn;
    c->cudnn = new (std::nothrow) ink_cuda_cudnn{};
    void *library = dlopen("libcudnn.so.9", RTLD_NOW | RTLD_GLOBAL);
    if (!library) library = dlopen("libcudnn.so", RTLD_NOW | RTLD_GLOBAL);
    if (!library || !c->cudnn) return c->cudnn;
    fe::cudnn_dlhandle = library;
    cudnnHandle_t handle;
    try {
        if (fe::detail::create_handle(&handle) == CUDNN_STATUS_SUCCESS) c->cudnn->handle = handle;
    } catch (...) {}
    return c->cudnn;
}

void ink_cuda_cudnn_close(ink_cuda *c) {
    if (!c->cudnn) return;
    try {
        c->cudnn->graphs.clear();
        if (c->cudnn->handle) fe::detail::destroy_handle(c->cudnn->handle);
        delete c->cudnn;
    } catch (...) {}
    c->cudnn = nullptr;
}

enum { Q = 1, K, V, DST };

static auto tensor_of(int64_t uid, int64_t heads, int64_t rows, int64_t head_dim, int64_t stride) {
    return fe::graph::Tensor_attributes()
        .set_uid(uid)
        .set_dim({1, heads, rows, head_dim})
        .set_stride({rows * stride, head_dim, stride, 1});
}

static graph_pointer build(cudnnHandle_t handle, const ink_cuda_attention &s) {
    auto graph = std::make_shared<fe::graph::Graph>();
    graph->set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
    auto q = graph->tensor(tensor_of(Q, s.n_heads, s.n_q, s.head_dim, s.q_stride));
    auto k = graph->tensor(tensor_of(K, s.n_kv_heads, s.n_kv, s.head_dim, s.k_stride));
    auto v = graph->tensor(tensor_of(V, s.n_kv_heads, s.n_kv, s.head_dim, s.v_stride));
    auto options = fe::graph::SDPA_attributes().set_name("attention").set_generate_stats(false).set_attn_scale(s.scale);
    if (s.causal) options.set_causal_mask(true);
    auto outputs = graph->sdpa(q, k, v, options);
    outputs[0]
        ->set_output(true)
        .set_uid(DST)
        .set_dim({1, s.n_heads, s.n_q, s.head_dim})
        .set_stride({s.n_q * s.dst_stride, s.head_dim, s.dst_stride, 1});
    if (graph->validate().is_bad() || graph->build_operation_graph(handle).is_bad() ||
        graph->create_execution_plans({fe::HeurMode_t::A}).is_bad() || graph->check_support(handle).is_bad() ||
        graph->build_plans(handle).is_bad())
        return nullptr;
    return graph;
}

bool ink_cuda_attend_cudnn(ink_cuda *c, const ink_cuda_attention &shape, void *dst, const void *q, const void *k, const void *v) {
    ink_cuda_cudnn *state = state_of(c);
    if (!state || !state->handle) return false;
    try {
        auto known = state->graphs.find(shape);
        if (known == state->graphs.end()) known = state->graphs.emplace(shape, build(state->handle, shape)).first;
        const graph_pointer &graph = known->second;
        if (!graph) return false;
        int64_t bytes = 0;
        if (graph->get_workspace_size(bytes).is_bad()) return false;
        void *workspace = bytes > 0 ? ink_cuda_scratch(c, (size_t)bytes) : nullptr;
        if (ink_cuda_failed(c)) return true;
        if (fe::detail::set_stream(state->handle, c->stream) != CUDNN_STATUS_SUCCESS) return false;
        std::unordered_map<int64_t, void *> pointers = {
            {Q, const_cast<void *>(q)}, {K, const_cast<void *>(k)}, {V, const_cast<void *>(v)}, {DST, dst}};
        if (graph->execute(state->handle, pointers, workspace).is_bad()) ink_cuda_fail(c, "attention: cuDNN failed to run");
        return true;
    } catch (...) {
        return false;
    }
}
