/* lagging_device.c - queues of calls that are run as late as they may be. */
#define _POSIX_C_SOURCE 200809L /* nanosleep */
#include "support/lagging_device.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ops/ref/ref_ops.h"
#include "tensor/dtype.h"

/* ---- calls --------------------------------------------------------------------------------------------------------- */

typedef enum call_kind {
    LINEAR,
    LAYERNORM_MODULATE,
    GATED_RESIDUAL_LAYERNORM_MODULATE,
    RMSNORM,
    RESIDUAL_RMSNORM,
    RMSNORM_ROPE,
    ROPE_HALF,
    ATTENTION,
    SILU_MUL,
    CONV2D,
    RMSNORM_CHANNELS,
    UPSAMPLE2X,
    TIMESTEP_EMBED,
    UNPATCHIFY,
    CFG_COMBINE,
    EULER_STEP,
    COPY,
    N_OPS,
    BEGIN_ASIDE = N_OPS,
    END_ASIDE,
    JOIN_ASIDE,
    FETCH,
    AWAIT,
    LEAVE,
    SPOIL /* fills a slot with NaN */
} call_kind;

/* Of an op, or of what is done to a slot, with all that it points to. */
typedef struct queued {
    call_kind kind;
    ink_tensor x[6]; /* dst first */
    ink_weight w, down, up;
    ink_linear_epilogue e;
    ink_tensor bias, gate, low, residual;
    bool has_residual, flag;
    ink_residual stream;
    ink_attention_shape attention;
    ink_conv_shape conv;
    int64_t n[3];
    float f;
    int slot;
    void *dst;
    const void *src;
    size_t bytes;
} queued;

typedef struct queue {
    queued *calls;
    size_t n, capacity;
} queue;

typedef struct block {
    void *memory;
    size_t bytes;
    bool shared;
} block;

typedef struct slot_state {
    void *dst;
    const void *src;
    size_t bytes;
    bool is_left, is_fetched; /* not used since; on its way */
} slot_state;

enum { MOST_BLOCKS = 20000, N_SLOTS = 2 };

static struct {
    int64_t total;
    lagging_counts counts;
    block blocks[MOST_BLOCKS];
    size_t n_blocks;
    queue late;    /* of the one that lags, not run yet */
    bool is_aside; /* where calls go */
    queue *record; /* being made, or NULL */
    bool record_left[N_SLOTS], record_fetched[N_SLOTS];
    slot_state slots[N_SLOTS];
    int64_t fail_in, call_in;
    void (*call)(void *user);
    void *call_user;
    char failure[100];
} s;

static bool main_lags; /* or else what is aside */

static void *need(void *memory) {
    if (!memory) abort();
    return memory;
}

static void fail(const char *what) {
    if (!s.failure[0]) snprintf(s.failure, sizeof s.failure, "%s", what);
}

static void append(queue *q, const queued *c) {
    if (q->n == q->capacity) {
        q->capacity = q->capacity ? 2 * q->capacity : 64;
        q->calls = need(realloc(q->calls, q->capacity * sizeof *q->calls));
    }
    q->calls[q->n++] = *c;
}

/* Makes what it points to its own, in the place where it is. */
static void settle(queued *c) {
    if (c->w.down) c->w.down = &c->down;
    if (c->w.up) c->w.up = &c->up;
    if (c->e.bias) c->e.bias = &c->bias;
    if (c->e.gate) c->e.gate = &c->gate;
    if (c->e.low) c->e.low = &c->low;
}

/* ---- running them ---------------------------------------------------------------------------------------------------- */

/* A vector as f32; released with free. */
static ink_tensor widen(ink_tensor x) {
    ink_tensor wide = ink_view(need(malloc((size_t)x.cols * sizeof(float))), 1, x.cols);
    ink_convert(wide.data, INK_F32, x.data, x.type, x.cols);
    return wide;
}

static void run_op(queued *c) {
    const ink_device *d = NULL;
    ink_tensor *x = c->x, v = {0}, u = {0}, bias = {0};
    switch (c->kind) {
    case LINEAR:
        if (c->e.bias) {
            bias = widen(c->bias);
            c->e.bias = &bias;
        }
        ink_ref_linear(d, x[0], x[1], &c->w, c->e);
        break;
    case LAYERNORM_MODULATE: ink_ref_layernorm_modulate(d, x[0], x[1], x[2], x[3], c->f); break;
    case GATED_RESIDUAL_LAYERNORM_MODULATE: ink_ref_gated_residual_layernorm_modulate(d, x[0], c->stream, x[1], x[2], c->f); break;
    case RMSNORM: ink_ref_rmsnorm(d, x[0], x[1], v = widen(x[2]), c->f); break;
    case RESIDUAL_RMSNORM: ink_ref_residual_rmsnorm(d, x[0], x[1], x[2], v = widen(x[3]), c->f); break;
    case RMSNORM_ROPE: ink_ref_rmsnorm_rope(d, x[0], v = widen(x[1]), u = widen(x[2]), x[3], x[4], c->n[0], c->f); break;
    case ROPE_HALF: ink_ref_rope_half(d, x[0], x[1], x[2], c->n[0]); break;
    case ATTENTION: ink_ref_attention(d, x[0], x[1], x[2], x[3], c->attention); break;
    case SILU_MUL: ink_ref_silu_mul(d, x[0], x[1], x[2]); break;
    case CONV2D: ink_ref_conv2d(d, x[0], x[1], &c->w, v = widen(x[2]), c->has_residual ? &c->residual : NULL, c->conv); break;
    case RMSNORM_CHANNELS: ink_ref_rmsnorm_channels(d, x[0], x[1], v = widen(x[2]), c->flag); break;
    case UPSAMPLE2X: ink_ref_upsample2x(d, x[0], x[1], c->n[0], c->n[1]); break;
    case TIMESTEP_EMBED: ink_ref_timestep_embed(d, x[0], x[1]); break;
    case UNPATCHIFY: ink_ref_unpatchify(d, x[0], x[1], x[2], x[3], c->n[0], c->n[1], c->n[2]); break;
    case CFG_COMBINE: ink_ref_cfg_combine(d, x[0], x[1], x[2], c->f); break;
    case EULER_STEP: ink_ref_euler_step(d, x[0], x[1], c->f); break;
    default: ink_ref_copy(d, x[0], x[1]); break;
    }
    free(v.data);
    free(u.data);
    free(bias.data);
}

static void run_now(queued *c) {
    settle(c);
    if (c->kind == SPOIL)
        memset(c->dst, 0xff, c->bytes);
    else
        run_op(c);
}

/* The first n. */
static void run_late(size_t n) {
    for (size_t i = 0; i < n; i++) run_now(&s.late.calls[i]);
    s.late.n -= n;
    if (s.late.n > 0) memmove(s.late.calls, s.late.calls + n, s.late.n * sizeof *s.late.calls);
}

static void run_all_late(void) { run_late(s.late.n); }

/* Before something that is in the order of the main queue. */
static void catch_up(void) {
    if (main_lags) run_all_late();
}

/* What lies in a slot is gone as soon as the late work that uses it is done. */
static void spoil(int slot, void *dst, size_t bytes) {
    queued c = {.kind = SPOIL, .slot = slot, .dst = dst, .bytes = bytes};
    if (s.late.n > 0)
        append(&s.late, &c);
    else if (dst)
        run_now(&c);
}

/* The late work that uses what lay in a slot before. */
static void run_until_spoilt(int slot) {
    size_t n = s.late.n;
    while (n > 0 && !(s.late.calls[n - 1].kind == SPOIL && s.late.calls[n - 1].slot == slot)) n--;
    run_late(n);
}

static void bring(slot_state *t) {
    if (t->is_fetched) memcpy(t->dst, t->src, t->bytes);
    t->is_fetched = false;
}

static void do_call(const queued *given) {
    queued c = *given;
    slot_state *t = &s.slots[c.slot];
    switch (c.kind) {
    case BEGIN_ASIDE:
        if (!c.flag) catch_up();
        s.is_aside = true;
        break;
    case END_ASIDE: s.is_aside = false; break;
    case JOIN_ASIDE:
        if (!main_lags) run_all_late();
        break;
    case LEAVE:
        /* Of a pass that ended early; what it fetched may come at any time before the slot is filled anew. */
        if (t->is_fetched) bring(t);
        if (t->dst) spoil(c.slot, t->dst, t->bytes);
        t->is_left = true;
        break;
    case FETCH:
        if (!t->is_left || t->is_fetched) fail("a slot is filled while it is in use");
        *t = (slot_state){c.dst, c.src, c.bytes, false, true};
        s.counts.n_fetched++;
        spoil(c.slot, c.dst, c.bytes);
        break;
    case AWAIT:
        if (!t->is_fetched) fail("a slot is awaited that nothing comes to");
        run_until_spoilt(c.slot);
        bring(t);
        break;
    default:
        if (s.is_aside != main_lags)
            append(&s.late, &c);
        else
            run_now(&c);
    }
}

static int n_sending; /* that have begun */

static void put(queued *c) {
    settle(c);
    if (c->kind < N_OPS && n_sending > 0) s.counts.n_beside++;
    if (c->kind < N_OPS && s.call_in > 0 && --s.call_in == 0) s.call(s.call_user);
    if (!s.record) {
        do_call(c);
        return;
    }
    if (c->kind == LEAVE) s.record_left[c->slot] = true;
    if (c->kind == FETCH && !s.record_left[c->slot]) fail("a record fetches to a slot that it has not left");
    if (c->kind == FETCH) s.record_fetched[c->slot] = true;
    if (c->kind == AWAIT && !s.record_fetched[c->slot]) fail("a record awaits what it has not fetched");
    if (c->kind == AWAIT) s.record_fetched[c->slot] = false;
    append(s.record, c);
}

/* ---- ops --------------------------------------------------------------------------------------------------------------- */

static queued with_weight(call_kind kind, const ink_weight *w) {
    queued c = {.kind = kind, .w = *w};
    if (w->down) c.down = *w->down;
    if (w->up) c.up = *w->up;
    return c;
}

static void linear(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_linear_epilogue e) {
    (void)d;
    queued c = with_weight(LINEAR, w);
    c.x[0] = dst;
    c.x[1] = x;
    c.e = e;
    if (e.bias) c.bias = *e.bias;
    if (e.gate) c.gate = *e.gate;
    if (e.low) c.low = *e.low;
    put(&c);
}

static void layernorm_modulate(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor scale, ink_tensor shift, float eps) {
    (void)d;
    put(&(queued){.kind = LAYERNORM_MODULATE, .x = {dst, x, scale, shift}, .f = eps});
}

static void gated_residual_layernorm_modulate(const ink_device *d, ink_tensor dst, ink_residual r, ink_tensor scale,
                                              ink_tensor shift, float eps) {
    (void)d;
    put(&(queued){.kind = GATED_RESIDUAL_LAYERNORM_MODULATE, .x = {dst, scale, shift}, .stream = r, .f = eps});
}

static void rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor w, float eps) {
    (void)d;
    put(&(queued){.kind = RMSNORM, .x = {dst, x, w}, .f = eps});
}

static void residual_rmsnorm(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor r, ink_tensor w, float eps) {
    (void)d;
    put(&(queued){.kind = RESIDUAL_RMSNORM, .x = {dst, x, r, w}, .f = eps});
}

static void rmsnorm_rope(const ink_device *d, ink_tensor qk, ink_tensor wq, ink_tensor wk, ink_tensor cos, ink_tensor sin,
                         int64_t n_heads, float eps) {
    (void)d;
    put(&(queued){.kind = RMSNORM_ROPE, .x = {qk, wq, wk, cos, sin}, .n = {n_heads}, .f = eps});
}

static void rope_half(const ink_device *d, ink_tensor x, ink_tensor cos, ink_tensor sin, int64_t n_heads) {
    (void)d;
    put(&(queued){.kind = ROPE_HALF, .x = {x, cos, sin}, .n = {n_heads}});
}

static void attention(const ink_device *d, ink_tensor dst, ink_tensor q, ink_tensor k, ink_tensor v, ink_attention_shape shape) {
    (void)d;
    put(&(queued){.kind = ATTENTION, .x = {dst, q, k, v}, .attention = shape});
}

static void silu_mul(const ink_device *d, ink_tensor dst, ink_tensor a, ink_tensor b) {
    (void)d;
    put(&(queued){.kind = SILU_MUL, .x = {dst, a, b}});
}

static void conv2d(const ink_device *d, ink_tensor dst, ink_tensor x, const ink_weight *w, ink_tensor bias,
                   const ink_tensor *residual, ink_conv_shape shape) {
    (void)d;
    queued c = with_weight(CONV2D, w);
    c.x[0] = dst;
    c.x[1] = x;
    c.x[2] = bias;
    c.conv = shape;
    c.has_residual = residual != NULL;
    if (residual) c.residual = *residual;
    put(&c);
}

static void rmsnorm_channels(const ink_device *d, ink_tensor dst, ink_tensor x, ink_tensor gamma, bool silu) {
    (void)d;
    put(&(queued){.kind = RMSNORM_CHANNELS, .x = {dst, x, gamma}, .flag = silu});
}

static void upsample2x(const ink_device *d, ink_tensor dst, ink_tensor x, int64_t height, int64_t width) {
    (void)d;
    put(&(queued){.kind = UPSAMPLE2X, .x = {dst, x}, .n = {height, width}});
}

static void timestep_embed(const ink_device *d, ink_tensor dst, ink_tensor t) {
    (void)d;
    put(&(queued){.kind = TIMESTEP_EMBED, .x = {dst, t}});
}

static void unpatchify(const ink_device *d, ink_tensor dst, ink_tensor latents, ink_tensor mean, ink_tensor std, int64_t height,
                       int64_t width, int64_t patch) {
    (void)d;
    put(&(queued){.kind = UNPATCHIFY, .x = {dst, latents, mean, std}, .n = {height, width, patch}});
}

static void cfg_combine(const ink_device *d, ink_tensor dst, ink_tensor cond, ink_tensor uncond, float scale) {
    (void)d;
    put(&(queued){.kind = CFG_COMBINE, .x = {dst, cond, uncond}, .f = scale});
}

static void euler_step(const ink_device *d, ink_tensor x, ink_tensor v, float dt) {
    (void)d;
    put(&(queued){.kind = EULER_STEP, .x = {x, v}, .f = dt});
}

static void copy(const ink_device *d, ink_tensor dst, ink_tensor x) {
    (void)d;
    put(&(queued){.kind = COPY, .x = {dst, x}});
}

/* ---- memory ------------------------------------------------------------------------------------------------------------ */

static void *take(size_t bytes, bool shared) {
    if (s.fail_in > 0 && --s.fail_in == 0) return NULL;
    if (!shared && s.counts.bytes + (int64_t)bytes > s.total) return NULL;
    if (s.n_blocks == MOST_BLOCKS) abort();
    void *memory = need(malloc(bytes ? bytes : 1));
    memset(memory, 0xff, bytes);
    s.blocks[s.n_blocks++] = (block){memory, bytes, shared};
    int64_t *now = shared ? &s.counts.shared : &s.counts.bytes, *most = shared ? &s.counts.peak_shared : &s.counts.peak_bytes;
    *now += (int64_t)bytes;
    if (*now > *most) *most = *now;
    return memory;
}

static void give(void *memory, bool shared) {
    if (!memory) return;
    catch_up();
    for (size_t i = 0; i < s.n_blocks; i++) {
        if (s.blocks[i].memory != memory) continue;
        if (s.blocks[i].shared != shared) abort();
        *(shared ? &s.counts.shared : &s.counts.bytes) -= (int64_t)s.blocks[i].bytes;
        s.blocks[i] = s.blocks[--s.n_blocks];
        /* What lay there means nothing from now on. */
        for (int j = 0; j < N_SLOTS; j++)
            if (s.slots[j].dst == memory || s.slots[j].src == memory) {
                if (s.slots[j].is_fetched) fail("memory is released while a copy is under way");
                s.slots[j] = (slot_state){0};
            }
        free(memory);
        return;
    }
    abort();
}

static void *take_device(const ink_device *d, size_t bytes) {
    (void)d;
    return take(bytes, false);
}

static void give_device(const ink_device *d, void *memory) {
    (void)d;
    give(memory, false);
}

static void *take_shared(const ink_device *d, size_t bytes) {
    (void)d;
    return take(bytes, true);
}

static void give_shared(const ink_device *d, void *memory) {
    (void)d;
    give(memory, true);
}

static void wait_for_all(const ink_device *d) {
    (void)d;
    run_all_late();
    for (int i = 0; i < N_SLOTS; i++) bring(&s.slots[i]);
}

static void move(const ink_device *d, void *dst, const void *src, size_t bytes) {
    (void)d;
    if (s.record) fail("bytes to and fro are recorded");
    catch_up();
    memcpy(dst, src, bytes);
}

/* Small, so that much of it is sent in pieces. */
enum { STAGING_BYTES = 1000 };
static unsigned char stagings[INK_N_STAGINGS][STAGING_BYTES];

static atomic_bool senders_lag;

static void *staging(const ink_device *d, int64_t i) {
    (void)d;
    if (atomic_load(&senders_lag)) nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
    return stagings[i];
}

/* What is sent beside the work, by several threads, arrives when that ends. */
typedef struct piece {
    void *dst, *bytes;
    size_t n;
} piece;

static struct {
    pthread_mutex_t lock;
    piece *pieces; /* under the lock */
    size_t n, capacity;
} beside = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void send(const ink_device *d, int64_t i, void *dst, size_t bytes) {
    (void)d;
    void *copy = need(malloc(bytes ? bytes : 1));
    memcpy(copy, stagings[i], bytes);
    pthread_mutex_lock(&beside.lock);
    if (beside.n == beside.capacity) {
        beside.capacity = beside.capacity ? 2 * beside.capacity : 64;
        beside.pieces = need(realloc(beside.pieces, beside.capacity * sizeof *beside.pieces));
    }
    beside.pieces[beside.n++] = (piece){dst, copy, bytes};
    pthread_mutex_unlock(&beside.lock);
}

static void begin_sending(const ink_device *d) {
    (void)d;
    if (s.record) fail("sending begins within a record");
    catch_up();
    n_sending++;
}

static void see_sent(const ink_device *d) {
    (void)d;
    if (n_sending == 0 || s.record) fail("what is sent is looked for when nothing is, or within a record");
    pthread_mutex_lock(&beside.lock);
    for (size_t i = 0; i < beside.n; i++) {
        memcpy(beside.pieces[i].dst, beside.pieces[i].bytes, beside.pieces[i].n);
        free(beside.pieces[i].bytes);
    }
    free(beside.pieces);
    beside.pieces = NULL;
    beside.n = beside.capacity = 0;
    pthread_mutex_unlock(&beside.lock);
}

static void end_sending(const ink_device *d) {
    see_sent(d);
    n_sending--;
}

static void tell(const ink_device *d, int64_t *free_bytes, int64_t *total_bytes) {
    (void)d;
    *free_bytes = s.total - s.counts.bytes;
    *total_bytes = s.total;
}

static const char *failure(const ink_device *d) {
    (void)d;
    return s.failure[0] ? s.failure : NULL;
}

static void begin_aside(const ink_device *d, bool goes_on, bool spares) {
    (void)d;
    (void)spares;
    put(&(queued){.kind = BEGIN_ASIDE, .flag = goes_on});
}

static void end_aside(const ink_device *d) {
    (void)d;
    put(&(queued){.kind = END_ASIDE});
}

static void join_aside(const ink_device *d) {
    (void)d;
    put(&(queued){.kind = JOIN_ASIDE});
}

static bool record_begin(const ink_device *d) {
    (void)d;
    s.record = need(calloc(1, sizeof *s.record));
    memset(s.record_left, 0, sizeof s.record_left);
    memset(s.record_fetched, 0, sizeof s.record_fetched);
    return true;
}

static void *record_end(const ink_device *d) {
    (void)d;
    queue *record = s.record;
    s.record = NULL;
    return record;
}

static void replay(const ink_device *d, void *record) {
    (void)d;
    const queue *q = record;
    if (s.record_fetched[0] || s.record_fetched[1]) fail("a record fetches what it does not await");
    s.counts.n_replayed++;
    for (size_t i = 0; i < q->n; i++) do_call(&q->calls[i]);
}

static void record_release(const ink_device *d, void *record) {
    (void)d;
    free(((queue *)record)->calls);
    free(record);
}

static void fetch(const ink_device *d, int slot, void *dst, const void *src, size_t bytes) {
    (void)d;
    put(&(queued){.kind = FETCH, .slot = slot, .dst = dst, .src = src, .bytes = bytes});
}

static void await(const ink_device *d, int slot) {
    (void)d;
    put(&(queued){.kind = AWAIT, .slot = slot});
}

static void leave(const ink_device *d, int slot) {
    (void)d;
    put(&(queued){.kind = LEAVE, .slot = slot});
}

/* ---- the device --------------------------------------------------------------------------------------------------------- */

static void close_device(ink_device *device) {
    run_all_late();
    free(s.late.calls);
    s.late = (queue){0};
    *device = (ink_device){0};
}

ink_device lagging_device(int64_t total_bytes) {
    static const ink_device_memory memory = {
        take_device,   give_device, take_shared, give_shared,    move,  move,    STAGING_BYTES, staging,   send,
        begin_sending, see_sent,    end_sending, wait_for_all,   tell,  failure, begin_aside,   end_aside, join_aside,
        record_begin,  record_end,  replay,      record_release, fetch, await,   leave};
    static const ink_ops ops = {linear,
                                layernorm_modulate,
                                gated_residual_layernorm_modulate,
                                rmsnorm,
                                residual_rmsnorm,
                                rmsnorm_rope,
                                rope_half,
                                attention,
                                silu_mul,
                                conv2d,
                                rmsnorm_channels,
                                upsample2x,
                                timestep_embed,
                                unpatchify,
                                cfg_combine,
                                euler_step,
                                copy};
    memset(&s, 0, sizeof s);
    s.total = total_bytes;
    return (ink_device){.tier = "lagging", .ops = &ops, .memory = &memory, .sides_together = true, .close = close_device};
}

void lagging_device_let_main_lag(bool lags) { main_lags = lags; }

void lagging_device_let_senders_lag(bool lag) { atomic_store(&senders_lag, lag); }

lagging_counts lagging_device_counts(void) { return s.counts; }

void lagging_device_reset_counts(void) {
    s.counts.peak_bytes = s.counts.bytes;
    s.counts.peak_shared = s.counts.shared;
    s.counts.n_fetched = s.counts.n_replayed = s.counts.n_beside = 0;
}

void lagging_device_fail_at(int64_t n) { s.fail_in = n; }

void lagging_device_call_at(int64_t n, void (*call)(void *user), void *user) {
    s.call_in = n;
    s.call = call;
    s.call_user = user;
}
