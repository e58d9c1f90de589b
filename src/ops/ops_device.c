/* ops_device.c - what a run needs of a device beside its ops: numbers that go to and fro, and work that is replayed. */
#include <inttypes.h>

#include "base/bf16.h"
#include "base/memory.h"
#include "ops/ops.h"

void ink_check_device(ink_ctx *c) {
    const ink_device_memory *memory = c->device->memory;
    const char *failure = memory ? memory->failure(c->device) : NULL;
    if (failure && c->status == INK_OK) c->status = ink_fail(c->error, INK_ERROR_DEVICE, "%s: %s", c->device->tier, failure);
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

ink_tensor ink_host_begin(ink_ctx *c, ink_tensor x, ink_host_access access) {
    const ink_device_memory *memory = c->device->memory;
    if (!memory) return x;
    ink_tensor host = ink_view(NULL, x.rows, x.cols);
    if (c->status != INK_OK) return host;
    host.data = ink_alloc_array((size_t)x.rows, (size_t)x.cols * sizeof *host.data);
    if (!host.data) c->status = ink_fail(c->error, INK_ERROR_MEMORY, "no memory for numbers of the %s", c->device->tier);
    if (host.data && access == INK_HOST_READ) {
        memory->download(c->device, host.data, x.data, (size_t)(x.rows * x.cols) * sizeof *host.data);
        ink_check_device(c);
    }
    return host;
}

void ink_host_end(ink_ctx *c, ink_tensor host, ink_tensor x, ink_host_access access) {
    const ink_device_memory *memory = c->device->memory;
    if (!memory) return;
    if (access == INK_HOST_WRITE && host.data && c->status == INK_OK) {
        memory->upload(c->device, x.data, host.data, (size_t)(x.rows * x.cols) * sizeof *host.data);
        ink_check_device(c);
    }
    ink_free(host.data);
}

void ink_embed_rows(ink_ctx *c, ink_tensor dst, const ink_table *table, const int32_t *ids) {
    const ink_weight *w = &table->stored;
    for (int64_t i = 0; i < dst.rows && c->status == INK_OK; i++)
        if (ids[i] < 0 || ids[i] >= w->rows)
            c->status = ink_fail(c->error, INK_ERROR_INTERNAL, "embed_rows: id %" PRId32 " is not in 0..%" PRId64, ids[i],
                                 w->rows - 1);
    if (c->status != INK_OK || ink_ctx_dry(c)) return;
    ink_tensor host = ink_host_begin(c, dst, INK_HOST_WRITE);
    for (int64_t i = 0; i < dst.rows && c->status == INK_OK; i++) {
        float *row = ink_row(host, i);
        ink_weight_decode(row, w, ids[i], 0, dst.cols);
        for (int64_t j = 0; table->rounds && j < dst.cols; j++) row[j] = ink_round_to_bf16(row[j]);
    }
    ink_host_end(c, host, dst, INK_HOST_WRITE);
}

/* ---- aside ------------------------------------------------------------------------------------------------------- */

static const ink_device_memory *queues_of(const ink_ctx *c) { return c->device ? c->device->memory : NULL; }

/* A trace is of one op at a time. */
static bool has_work(const ink_ctx *c) { return !c->trace && !ink_ctx_dry(c) && c->status == INK_OK; }

static void begin_aside(ink_ctx *c, bool goes_on) {
    if (!queues_of(c)) return;
    if (!c->waits_for_join) c->aside_mark = ink_arena_mark(c->arena);
    c->aside = c->waits_for_join = true;
    /* Products alone are there to compare with: of one block after the other, each as fast as it can be by itself. */
    if (has_work(c)) queues_of(c)->begin_aside(c->device, goes_on && !c->only_products, !c->only_products);
}

void ink_begin_aside(ink_ctx *c) { begin_aside(c, false); }

void ink_go_on_aside(ink_ctx *c) { begin_aside(c, true); }

void ink_end_aside(ink_ctx *c) {
    if (!queues_of(c)) return;
    c->aside = false;
    /* Also after a failure in between. */
    if (!ink_ctx_dry(c)) queues_of(c)->end_aside(c->device);
}

void ink_join_aside(ink_ctx *c) {
    if (!queues_of(c)) return;
    if (has_work(c)) queues_of(c)->join_aside(c->device);
    if (c->waits_for_join) ink_arena_release(c->arena, c->aside_mark);
    c->waits_for_join = false;
}

void ink_scratch_release(ink_ctx *c, size_t mark) {
    if (!c->aside) ink_arena_release(c->arena, mark);
}

/* ---- replay ------------------------------------------------------------------------------------------------------ */

bool ink_replay_begin(ink_ctx *c, ink_replay *r) {
    const ink_device_memory *memory = c->device->memory;
    if (r->record) return false;
    r->work = c->work;
    r->products = c->products;
    /* The first time the ops get ready what they need, which no record may hold. A trace waits for each op. */
    r->recording = memory && !c->trace && !ink_ctx_dry(c) && c->status == INK_OK && r->n_times > 0 &&
                   memory->record_begin(c->device);
    return true;
}

void ink_replay_end(ink_ctx *c, ink_replay *r) {
    const ink_device_memory *memory = c->device->memory;
    r->n_times++;
    if (r->recording) {
        r->recording = false;
        r->work = c->work - r->work;
        r->products = c->products - r->products;
        r->record = memory->record_end(c->device);
    } else if (r->record) {
        c->work += r->work;
        c->products += r->products;
    } else {
        return;
    }
    if (r->record && c->status == INK_OK) memory->replay(c->device, r->record);
    ink_check_device(c);
    if (c->worked) c->worked(c->worked_user);
}

void ink_replay_release(const ink_device *device, ink_replay *r) {
    if (r->record) device->memory->record_release(device, r->record);
    *r = (ink_replay){0};
}
