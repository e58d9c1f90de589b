/*
 * cuda_memory.cu - memory of the GPU: taken and released in the order of its stream, filled from the host's through pinned
 * staging, slots that are filled beside the work, and work that is recorded and replayed as a graph.
 */
#include "ops/cuda/cuda_state.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <set>
#include <thread>
#include <utility>

/* ---- staging --------------------------------------------------------------------------------------------------------- */

/* Beside the copy of a piece the latency of one is little, and all of them fit in a last cache that others use, too. */
constexpr size_t STAGING_BYTES = (size_t)3 << 20;

struct ink_cuda_staging {
    std::once_flag made;
    std::mutex sending; /* threads that wait for each other within the driver hold up the work that is queued beside them */
    char *memory;                     /* INK_N_STAGINGS pieces, NULL after a failure to make it */
    cudaEvent_t sent[INK_N_STAGINGS]; /* the piece is free again */
    std::set<void *> locked;          /* memory of our own that the driver has locked */
};

static void *alloc_locked(ink_cuda *c, size_t bytes);
static void release_locked(ink_cuda *c, void *memory);

bool ink_cuda_staging_open(ink_cuda *c) {
    c->staging = new (std::nothrow) ink_cuda_staging{};
    return c->staging != nullptr;
}

void ink_cuda_staging_close(ink_cuda *c) {
    if (!c->staging) return;
    for (cudaEvent_t event : c->staging->sent)
        if (event) cudaEventDestroy(event);
    if (c->staging->memory) release_locked(c, c->staging->memory);
    delete c->staging;
    c->staging = nullptr;
}

static void make_staging(ink_cuda *c) {
    ink_cuda_staging *s = c->staging;
    for (cudaEvent_t &event : s->sent)
        if (!ink_cuda_ok(c, cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "event")) return;
    s->memory = static_cast<char *>(alloc_locked(c, INK_N_STAGINGS * STAGING_BYTES));
    if (!s->memory) ink_cuda_fail(c, "no page-locked memory, %zu bytes", INK_N_STAGINGS * STAGING_BYTES);
}

static void *staging(const ink_device *device, int64_t i) {
    ink_cuda *c = ink_cuda_of(device);
    ink_cuda_staging *s = c->staging;
    if (ink_cuda_failed(c) || !ink_cuda_ok(c, cudaSetDevice(c->ordinal), "device")) return nullptr; /* of this thread */
    std::call_once(s->made, make_staging, c);
    if (!s->memory || !ink_cuda_ok(c, cudaEventSynchronize(s->sent[i]), "upload")) return nullptr;
    return s->memory + (size_t)i * STAGING_BYTES;
}

static void send(const ink_device *device, int64_t i, void *dst, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    const char *piece = c->staging->memory + (size_t)i * STAGING_BYTES;
    if (ink_cuda_failed(c)) return;
    std::lock_guard<std::mutex> alone(c->staging->sending);
    if (ink_cuda_ok(c, cudaMemcpyAsync(dst, piece, bytes, cudaMemcpyHostToDevice, c->copies), "upload"))
        ink_cuda_ok(c, cudaEventRecord(c->staging->sent[i], c->copies), "upload");
}

/* What is queued in one stream from here on waits for what the other has been given. */
static bool follow(ink_cuda *c, cudaStream_t second, cudaStream_t first) {
    return ink_cuda_ok(c, cudaEventRecord(c->sent, first), "upload") &&
           ink_cuda_ok(c, cudaStreamWaitEvent(second, c->sent, 0), "upload");
}

static void begin_sending(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    if (!ink_cuda_failed(c)) follow(c, c->copies, c->stream);
    c->n_sending++;
}

static void see_sent(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    std::lock_guard<std::mutex> alone(c->staging->sending);
    if (!ink_cuda_failed(c) && follow(c, c->stream, c->copies)) follow(c, c->other.stream, c->copies);
}

static void end_sending(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    if (!ink_cuda_failed(c)) follow(c, c->stream, c->copies);
    c->n_sending--;
}

/* ---- the table ------------------------------------------------------------------------------------------------------- */

static void *alloc(const ink_device *device, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    void *memory = nullptr;
    cudaSetDevice(c->ordinal);
    if (cudaMallocAsync(&memory, bytes, c->stream) == cudaSuccess) return memory;
    cudaGetLastError(); /* too much was asked for; that is all */
    return nullptr;
}

static void release(const ink_device *device, void *memory) {
    ink_cuda *c = ink_cuda_of(device);
    if (memory) cudaFreeAsync(memory, c->stream);
}

/*
 * Much of it is taken as large pages that are our own before the driver locks them: the driver's own take 0.7 s a GiB, these a
 * tenth of that.
 */
constexpr size_t LARGE_PAGE = (size_t)2 << 20, MUCH = (size_t)16 << 20;

/* The system clears a page when it is first touched, which takes most of the time: so several threads do it. */
static void touch(char *memory, size_t bytes) {
    constexpr int n_threads = 8;
    const size_t share = (bytes / n_threads + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    std::thread threads[n_threads];
    for (int i = 0; i < n_threads; i++) {
        const size_t first = std::min(bytes, (size_t)i * share), end = std::min(bytes, first + share);
        try {
            threads[i] = std::thread([=] {
                for (size_t at = first; at < end; at += 4096) memory[at] = 0;
            });
        } catch (...) { /* without a thread the driver touches them */
        }
    }
    for (std::thread &thread : threads)
        if (thread.joinable()) thread.join();
}

static void *alloc_locked(ink_cuda *c, size_t bytes) {
    bytes = (bytes + LARGE_PAGE - 1) / LARGE_PAGE * LARGE_PAGE;
    void *memory = aligned_alloc(LARGE_PAGE, bytes);
    if (!memory) return nullptr;
    madvise(memory, bytes, MADV_HUGEPAGE);
    touch(static_cast<char *>(memory), bytes);
    if (cudaHostRegister(memory, bytes, cudaHostRegisterMapped) != cudaSuccess) {
        cudaGetLastError();
        free(memory);
        return nullptr;
    }
    try {
        c->staging->locked.insert(memory);
    } catch (...) {
        cudaHostUnregister(memory);
        free(memory);
        return nullptr;
    }
    return memory;
}

static void release_locked(ink_cuda *c, void *memory) {
    c->staging->locked.erase(memory);
    cudaHostUnregister(memory);
    free(memory);
}

static void *alloc_shared(const ink_device *device, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    void *memory = nullptr;
    cudaSetDevice(c->ordinal);
    if (bytes >= MUCH) return alloc_locked(c, bytes);
    if (cudaHostAlloc(&memory, bytes, cudaHostAllocMapped) == cudaSuccess) return memory;
    cudaGetLastError();
    return nullptr;
}

static void release_shared(const ink_device *device, void *memory) {
    ink_cuda *c = ink_cuda_of(device);
    cudaStreamSynchronize(c->stream);
    if (!memory) return;
    if (c->staging->locked.count(memory))
        release_locked(c, memory);
    else
        cudaFreeHost(memory);
}

/*
 * Up to this size the driver sends bytes with its commands. More takes a copy engine, for which a stream may wait until another one
 * has no copies left: so while there are some, it goes behind them.
 */
constexpr size_t SENT_WITH_COMMANDS = (size_t)64 << 10;

/* The driver has read pageable memory by the time it returns. */
static void upload(const ink_device *device, void *dst, const void *src, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    const bool behind = c->n_sending > 0 && bytes > SENT_WITH_COMMANDS;
    if (ink_cuda_failed(c) || (behind && !follow(c, c->copies, c->stream))) return;
    ink_cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, behind ? c->copies : c->stream), "upload");
    if (behind) follow(c, c->stream, c->copies);
}

static void download(const ink_device *device, void *dst, const void *src, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    if (ink_cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, c->stream), "download"))
        ink_cuda_ok(c, cudaStreamSynchronize(c->stream), "download");
}

static void wait(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    /* After a failure or a cancellation work aside, and copies to slots, may not have been waited for by the lane at work. */
    if (c->n_sending == 0) ink_cuda_ok(c, cudaStreamSynchronize(c->copies), "the GPU");
    ink_cuda_ok(c, cudaStreamSynchronize(c->other.stream), "the GPU");
    ink_cuda_ok(c, cudaStreamSynchronize(c->stream), "the GPU");
}

/* What the pool keeps of released memory is free as well. */
static void info(const ink_device *device, int64_t *free_bytes, int64_t *total_bytes) {
    ink_cuda *c = ink_cuda_of(device);
    size_t free_now = 0, total = 0;
    uint64_t reserved = 0, used = 0;
    cudaMemPool_t pool;
    cudaSetDevice(c->ordinal);
    cudaMemGetInfo(&free_now, &total);
    if (cudaDeviceGetDefaultMemPool(&pool, c->ordinal) == cudaSuccess) {
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrReservedMemCurrent, &reserved);
        cudaMemPoolGetAttribute(pool, cudaMemPoolAttrUsedMemCurrent, &used);
    }
    *free_bytes = (int64_t)(free_now + (reserved - used));
    *total_bytes = (int64_t)total;
}

static const char *failure(const ink_device *device) {
    const ink_cuda *c = ink_cuda_of(device);
    return ink_cuda_failed(c) ? c->failure : nullptr;
}

/* ---- two lanes --------------------------------------------------------------------------------------------------------- */

static void swap_lanes(ink_cuda *c) {
    std::swap(static_cast<ink_cuda_lane &>(*c), c->other);
    c->is_aside = !c->is_aside;
}

/* What is queued in the lane at work from here on waits for what the other one has been given. */
static void wait_for_other(ink_cuda *c) {
    if (ink_cuda_ok(c, cudaEventRecord(c->other.reached, c->other.stream), "lanes"))
        ink_cuda_ok(c, cudaStreamWaitEvent(c->stream, c->other.reached, 0), "lanes");
}

static void begin_aside(const ink_device *device, bool goes_on, bool spares) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || c->is_aside) return;
    swap_lanes(c);
    c->spares = spares;
    if (!goes_on) wait_for_other(c);
}

static void end_aside(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    c->spares = false;
    if (c->is_aside) swap_lanes(c);
}

static void join_aside(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    if (!ink_cuda_failed(c)) wait_for_other(c);
}

/* ---- slots ------------------------------------------------------------------------------------------------------------- */

bool ink_cuda_slots_open(ink_cuda *c) {
    bool made = ink_cuda_ok(c, cudaStreamCreateWithFlags(&c->copies, cudaStreamNonBlocking), "stream") &&
                ink_cuda_ok(c, cudaEventCreateWithFlags(&c->sent, cudaEventDisableTiming), "event");
    for (ink_cuda_slot &slot : c->slots)
        for (cudaEvent_t *event : {&slot.filled, &slot.left[0], &slot.left[1]})
            made = made && ink_cuda_ok(c, cudaEventCreateWithFlags(event, cudaEventDisableTiming), "event");
    return made;
}

void ink_cuda_slots_close(ink_cuda *c) {
    if (c->copies) cudaStreamSynchronize(c->copies);
    for (ink_cuda_slot &slot : c->slots)
        for (cudaEvent_t event : {slot.filled, slot.left[0], slot.left[1]})
            if (event) cudaEventDestroy(event);
    if (c->sent) cudaEventDestroy(c->sent);
    if (c->copies) cudaStreamDestroy(c->copies);
}

static bool is_captured(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    return cudaStreamIsCapturing(stream, &status) == cudaSuccess && status == cudaStreamCaptureStatusActive;
}

static void leave(const ink_device *device, int slot) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    const cudaStream_t lanes[2] = {c->stream, c->other.stream};
    ink_cuda_slot *s = &c->slots[slot];
    for (int i = 0; i < 2; i++) {
        /* A lane that has done nothing within this record has not used the slot, and a record waits for nothing outside. */
        s->was_left[i] = !c->recording || is_captured(lanes[i]);
        if (s->was_left[i]) ink_cuda_ok(c, cudaEventRecord(s->left[i], lanes[i]), "slot");
    }
}

static void fetch(const ink_device *device, int slot, void *dst, const void *src, size_t bytes) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_cuda_slot *s = &c->slots[slot];
    for (int i = 0; i < 2; i++)
        if (s->was_left[i]) ink_cuda_ok(c, cudaStreamWaitEvent(c->copies, s->left[i], 0), "slot");
    ink_cuda_ok(c, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, c->copies), "copy to a slot");
    ink_cuda_ok(c, cudaEventRecord(s->filled, c->copies), "slot");
}

static void await(const ink_device *device, int slot) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c)) return;
    ink_cuda_ok(c, cudaStreamWaitEvent(c->stream, c->slots[slot].filled, 0), "slot");
    ink_cuda_ok(c, cudaStreamWaitEvent(c->other.stream, c->slots[slot].filled, 0), "slot");
}

/* ---- recorded work ----------------------------------------------------------------------------------------------------- */

static bool record_begin(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    if (ink_cuda_failed(c) || c->recording) return false;
    c->recording = cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;
    if (!c->recording) cudaGetLastError();
    return c->recording;
}

static void *record_end(const ink_device *device) {
    ink_cuda *c = ink_cuda_of(device);
    if (!c->recording) return nullptr;
    /* Work that ended early has left streams that nobody waits for, which no record may have. */
    if (is_captured(c->other.stream)) wait_for_other(c);
    if (is_captured(c->copies) && ink_cuda_ok(c, cudaEventRecord(c->slots[0].filled, c->copies), "recording"))
        ink_cuda_ok(c, cudaStreamWaitEvent(c->stream, c->slots[0].filled, 0), "recording");
    c->recording = false;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t executable = nullptr;
    if (!ink_cuda_ok(c, cudaStreamEndCapture(c->stream, &graph), "recording")) return nullptr;
    ink_cuda_ok(c, cudaGraphInstantiate(&executable, graph, 0), "recording");
    cudaGraphDestroy(graph);
    return executable;
}

static void replay(const ink_device *device, void *record) {
    ink_cuda *c = ink_cuda_of(device);
    if (!ink_cuda_failed(c)) ink_cuda_ok(c, cudaGraphLaunch((cudaGraphExec_t)record, c->stream), "replay");
}

static void record_release(const ink_device *device, void *record) {
    cudaStreamSynchronize(ink_cuda_of(device)->stream);
    if (record) cudaGraphExecDestroy((cudaGraphExec_t)record);
}

const ink_device_memory ink_cuda_memory = {
    alloc,         release,    alloc_shared, release_shared, upload, download, STAGING_BYTES, staging,   send,
    begin_sending, see_sent,   end_sending,  wait,           info,   failure,  begin_aside,   end_aside, join_aside,
    record_begin,  record_end, replay,       record_release, fetch,  await,    leave,
};
