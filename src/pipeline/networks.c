/* networks.c - what a session keeps on a device, and letting go of networks. */
#include "pipeline/networks.h"

#include <string.h>

#include "base/memory.h"

void ink_networks_drop(ink_networks *networks, ink_component component) {
    ink_holding *h = &networks->holdings[component];
    ink_bind_end_bringing(&h->binder, true);
    if (component == INK_TEXT_ENCODER) ink_text_encoder_release(&networks->text_encoder);
    if (component == INK_TRANSFORMER) ink_mmdit_release(&networks->mmdit);
    ink_residency_destroy(&h->residency);
    ink_store_release(&h->store);
    h->held = false;
}

void ink_networks_release(ink_networks *networks, const ink_device *device) {
    for (int i = 0; i < INK_N_COMPONENTS; i++) ink_networks_drop(networks, (ink_component)i);
    ink_free(networks->vae);
    ink_free(networks->times);
    if (device && device->memory) {
        ink_replay_release(device, &networks->forward);
        device->memory->release(device, networks->kept.memory);
        device->memory->release(device, networks->scratch);
    }
    *networks = (ink_networks){0};
}

static void drop_modulation(ink_networks *networks, const ink_device *device) {
    ink_free(networks->times);
    networks->times = NULL;
    device->memory->release(device, networks->kept.memory);
    networks->kept = (ink_arena){0};
}

bool ink_networks_take_arena(ink_networks *networks, const ink_device *device, ink_arena *arena, const ink_memory_plan *plan,
                             size_t kept_bytes) {
    size_t size = (size_t)plan->scratch_bytes;
    bool tight = !plan->gpu_keeps_weights;
    for (int i = 0; tight && i < INK_N_COMPONENTS; i++) ink_networks_drop(networks, (ink_component)i);
    if (tight && networks->kept.size > kept_bytes) drop_modulation(networks, device);
    if (networks->scratch_bytes < size || (tight && networks->scratch_bytes > size)) {
        ink_replay_release(device, &networks->forward);
        device->memory->release(device, networks->scratch);
        networks->scratch = device->memory->alloc(device, size);
        networks->scratch_bytes = networks->scratch ? size : 0;
    }
    ink_arena_create_over(arena, networks->scratch, size);
    return networks->scratch != NULL;
}

bool ink_networks_know(const ink_networks *networks, const float *times, int64_t n_steps) {
    return networks->times && networks->modulation.n_steps == n_steps &&
           memcmp(networks->times, times, (size_t)n_steps * sizeof *times) == 0;
}

bool ink_networks_take_modulation(ink_networks *networks, const ink_ctx *c, const ink_mmdit_config *config, int64_t n_steps,
                                  size_t kept_bytes) {
    ink_free(networks->times);
    networks->times = NULL;
    if (networks->kept.size < kept_bytes) {
        drop_modulation(networks, c->device);
        void *memory = c->device->memory->alloc(c->device, kept_bytes);
        ink_arena_create_over(&networks->kept, memory, memory ? kept_bytes : 0);
    }
    if (!networks->kept.memory) return false;
    ink_arena_release(&networks->kept, 0);
    ink_ctx kept = *c;
    kept.arena = &networks->kept;
    networks->modulation = ink_modulation_take(&kept, config, n_steps);
    return true;
}

int64_t ink_networks_limit(const ink_networks *kept, const ink_device *device, int64_t budget) {
    int64_t free_bytes, total_bytes, held = (int64_t)(kept ? kept->scratch_bytes + kept->kept.size : 0);
    device->memory->info(device, &free_bytes, &total_bytes);
    for (int i = 0; kept && i < INK_N_COMPONENTS; i++)
        if (kept->holdings[i].held) held += kept->holdings[i].binder.stored_bytes;
    int64_t limit = free_bytes + held;
    return budget > 0 && budget < limit ? budget : limit;
}
