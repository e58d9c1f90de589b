/* shuttle.c - page-locked cargo, two slots, and who waits for whom. */
#include "tensor/shuttle.h"

#include "base/memory.h"
#include "inkstone.h"

ink_status ink_shuttle_create(ink_shuttle **shuttle, const ink_device_memory *memory, const struct ink_device *device,
                              const ink_residency *r, const ink_part *counted, ink_error *error) {
    ink_shuttle *s = ink_alloc(sizeof *s);
    int64_t n = r->n_parts - r->n_stay, largest = 0;
    if (s) *s = (ink_shuttle){.memory = memory, .device = device, .n = n};
    if (s) s->cargoes = ink_alloc_array((size_t)n, sizeof *s->cargoes);
    *shuttle = s;
    bool there = s && s->cargoes;
    for (int64_t part = 0; there && part < r->n_parts; part++) {
        int64_t bytes = counted[part].buffer_bytes;
        if (ink_residency_stays(r, part)) continue;
        s->cargoes[ink_residency_index(r, part)] = (ink_cargo){.size = (size_t)bytes};
        if (bytes > largest) largest = bytes;
    }
    for (int i = 0; there && i < INK_N_SLOTS; i++) there = (s->slots[i] = memory->alloc(device, (size_t)largest)) != NULL;
    for (int64_t i = 0; there && i < n; i++) s->cargoes[i].device = s->slots[i % INK_N_SLOTS];
    if (there) return INK_OK;
    ink_shuttle_destroy(shuttle);
    return ink_fail(error, INK_ERROR_MEMORY, "no memory on the device for %d blocks of %.2f MiB that come and go", INK_N_SLOTS,
                    (double)largest / 1048576.0);
}

void ink_shuttle_destroy(ink_shuttle **shuttle) {
    ink_shuttle *s = *shuttle;
    if (!s) return;
    s->memory->wait(s->device);
    for (int64_t i = 0; s->cargoes && i < s->n; i++)
        if (s->cargoes[i].host) s->memory->release_shared(s->device, s->cargoes[i].host);
    for (int i = 0; i < INK_N_SLOTS; i++)
        if (s->slots[i]) s->memory->release(s->device, s->slots[i]);
    ink_free(s->cargoes);
    ink_free(s);
    *shuttle = NULL;
}

/* ---- loading ------------------------------------------------------------------------------------------------------- */

ink_cargo *ink_shuttle_load(ink_shuttle *s, int64_t index, ink_error *error) {
    ink_cargo *cargo = &s->cargoes[index];
    cargo->used = 0;
    if (!cargo->host) cargo->host = s->memory->alloc_shared(s->device, cargo->size);
    if (cargo->host) return cargo;
    ink_fail(error, INK_ERROR_MEMORY,
             "no page-locked memory of the host for block %lld of the %lld that come and go, %.2f MiB each: ask for a larger "
             "--vram-budget or a smaller --precision",
             (long long)index + 1, (long long)s->n, (double)cargo->size / 1048576.0);
    return NULL;
}

unsigned char *ink_cargo_take(ink_cargo *cargo, size_t bytes) {
    if (bytes > cargo->size - cargo->used) return NULL;
    unsigned char *place = cargo->device + cargo->used;
    cargo->used += bytes;
    return place;
}

unsigned char *ink_cargo_host(const ink_cargo *cargo, const unsigned char *place) { return cargo->host + (place - cargo->device); }

/* ---- a pass -------------------------------------------------------------------------------------------------------- */

static void fetch(const ink_shuttle *s, int64_t index) {
    if (index >= s->n) return;
    const ink_cargo *cargo = &s->cargoes[index];
    s->memory->fetch(s->device, (int)(index % INK_N_SLOTS), cargo->device, cargo->host, cargo->used);
}

void ink_shuttle_begin(const ink_shuttle *s) {
    for (int i = 0; i < INK_N_SLOTS; i++) {
        s->memory->leave(s->device, i);
        fetch(s, i);
    }
}

void ink_shuttle_acquire(const ink_shuttle *s, int64_t index) { s->memory->await(s->device, (int)(index % INK_N_SLOTS)); }

void ink_shuttle_release(const ink_shuttle *s, int64_t index) {
    s->memory->leave(s->device, (int)(index % INK_N_SLOTS));
    fetch(s, index + INK_N_SLOTS);
}
