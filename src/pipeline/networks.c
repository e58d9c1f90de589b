/* networks.c - letting go of networks. */
#include "pipeline/networks.h"

#include "base/memory.h"

void ink_networks_drop(ink_networks *networks, ink_component component) {
    ink_holding *h = &networks->holdings[component];
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

int64_t ink_networks_limit(const ink_networks *kept, const ink_device *device, int64_t budget) {
    int64_t free_bytes, total_bytes, held = (int64_t)(kept ? kept->scratch_bytes + kept->kept.size : 0);
    device->memory->info(device, &free_bytes, &total_bytes);
    for (int i = 0; kept && i < INK_N_COMPONENTS; i++)
        if (kept->holdings[i].held) held += kept->holdings[i].binder.stored_bytes;
    int64_t limit = free_bytes + held;
    return budget > 0 && budget < limit ? budget : limit;
}
