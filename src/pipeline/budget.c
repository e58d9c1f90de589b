/* budget.c - arithmetic of memory: nothing here touches any. */
#include "pipeline/budget.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/error.h"
#include "base/memory.h"
#include "tensor/shuttle.h"

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

typedef struct weight_sum {
    int64_t mapped, stored; /* in place; of our own */
} weight_sum;

/*
 * What a phase holds when n_stay parts stay: of the others one, and what is used in place of one more, which is on its way. What is
 * converted is read from the file a tensor at a time. n_buffers: for parts that are not used in place.
 */
static weight_sum held(const ink_need *need, int64_t n_stay, int64_t n_buffers) {
    weight_sum sum = {need->mapped_bytes + need->passing_bytes, need->stored_bytes};
    int64_t buffer = 0, mapped = 0;
    for (int64_t i = 0; i < need->n_parts; i++) {
        const ink_part *part = &need->parts[i];
        if (ink_part_stays(need->n_parts, n_stay, i)) {
            sum.mapped += part->mapped_bytes;
            sum.stored += part->stored_bytes;
        } else {
            buffer = larger(buffer, part->buffer_bytes);
            mapped = larger(mapped, part->mapped_bytes);
        }
    }
    sum.mapped += 2 * mapped;
    sum.stored += n_buffers * buffer;
    return sum;
}

static int64_t total(const ink_need *need, int64_t n_stay) {
    weight_sum sum = held(need, n_stay, 1);
    return sum.mapped + sum.stored;
}

/* Of a device, where nothing is used in place. */
static int64_t total_on_device(const ink_need *need, int64_t n_stay) { return held(need, n_stay, INK_N_SLOTS).stored; }

/* The most parts that may stay within `room`; 0 where even that is too much. */
static int64_t most_that_stay(const ink_need *need, int64_t room, int64_t (*sum)(const ink_need *, int64_t n_stay)) {
    int64_t n = need->n_parts;
    while (n > 0 && sum(need, n) > room) n--;
    return n;
}

static ink_status fail_budget(int64_t asked, int64_t least, ink_error *error) {
    const int64_t mib = 1 << 20;
    char shown[40] = "less than 1 MiB";
    if (asked >= mib) snprintf(shown, sizeof shown, "%" PRId64 " MiB", asked / mib);
    return ink_fail(error, INK_ERROR_MEMORY, "a budget of %s is too small for this picture: the least possible is %" PRId64 " MiB",
                    shown, (least + mib - 1) / mib);
}

/* What the plan says of weights, with the parts that stay. */
static void sum_up(ink_memory_plan *plan, const ink_need needs[INK_N_NEEDS]) {
    plan->mapped_bytes = plan->weight_bytes = plan->streamed_bytes = 0;
    for (int i = 0; i < INK_N_NEEDS; i++) {
        const ink_need *need = &needs[i];
        weight_sum sum = held(need, need->n_stay, 1);
        /* Pages that pass are nothing that is kept in place. */
        plan->mapped_bytes = larger(plan->mapped_bytes, sum.mapped - need->passing_bytes);
        plan->weight_bytes = larger(plan->weight_bytes, sum.stored);
    }
    const ink_need *denoise = &needs[INK_NEED_DENOISE];
    for (int64_t i = 0; i < denoise->n_parts; i++)
        if (!ink_part_stays(denoise->n_parts, denoise->n_stay, i)) plan->streamed_bytes += denoise->parts[i].file_bytes;
    plan->streamed_blocks = denoise->n_parts - denoise->n_stay;
    plan->blocks = denoise->n_parts;
    plan->peak_bytes = plan->scratch_bytes + plan->weight_bytes;
}

ink_status ink_budget_apply(ink_memory_plan *plan, ink_need needs[INK_N_NEEDS], int64_t asked, int64_t base_bytes,
                            ink_error *error) {
    int64_t around = base_bytes + plan->scratch_bytes, least = 0, most = 0, budget = asked;
    for (int i = 0; i < INK_N_NEEDS; i++) {
        needs[i].n_stay = needs[i].n_parts;
        least = larger(least, larger(0, around + total(&needs[i], 0)));
        most = larger(most, around + total(&needs[i], needs[i].n_parts));
    }
    if (least > most) least = most; /* few parts: two on their way are more than all */
    plan->least_bytes = least;
    if (asked > 0 && asked < least) return fail_budget(asked, least, error);
    /* What the process has is not available any more, but within its budget; a tenth is left to others. */
    int64_t available = plan->available_bytes > 0 ? plan->available_bytes / 10 * 9 + base_bytes : most;
    if (asked == 0 && most > available) budget = larger(available, least);
    plan->budget_bytes = budget;
    for (int i = 0; i < INK_N_NEEDS && budget > 0; i++)
        if (around + total(&needs[i], needs[i].n_parts) > budget)
            needs[i].n_stay = most_that_stay(&needs[i], budget - around, total);
    sum_up(plan, needs);
    return INK_OK;
}

/* ---- a device ------------------------------------------------------------------------------------------------------ */

/* Of the parts that travel. */
static int64_t cargo_bytes(const ink_need *need) {
    int64_t bytes = 0;
    for (int64_t i = 0; i < need->n_parts; i++)
        if (!ink_part_stays(need->n_parts, need->n_stay, i)) bytes += need->parts[i].buffer_bytes;
    return bytes;
}

static void sum_up_device(ink_memory_plan *plan, const ink_need needs[INK_N_NEEDS], int64_t around, int64_t all) {
    const ink_need *text = &needs[INK_NEED_TEXT], *denoise = &needs[INK_NEED_DENOISE];
    int64_t most = 0;
    plan->gpu_host_bytes = 0;
    for (int i = 0; i < INK_N_NEEDS; i++) {
        most = larger(most, total_on_device(&needs[i], needs[i].n_stay));
        plan->gpu_host_bytes = larger(plan->gpu_host_bytes, cargo_bytes(&needs[i]));
    }
    plan->gpu_weight_bytes = plan->gpu_keeps_weights ? all : most;
    plan->gpu_peak_bytes = around + plan->gpu_weight_bytes;
    plan->peak_bytes = plan->weight_bytes = plan->mapped_bytes = 0;
    plan->blocks = denoise->n_parts;
    plan->streamed_blocks = denoise->n_parts - denoise->n_stay;
    plan->streamed_bytes = cargo_bytes(denoise);
    plan->text_layers = text->n_parts;
    plan->streamed_text_layers = text->n_parts - text->n_stay;
}

ink_status ink_budget_apply_device(ink_memory_plan *plan, ink_need needs[INK_N_NEEDS], int64_t limit, int64_t extra,
                                   ink_error *error) {
    const double gib = 1073741824.0;
    const int64_t mib = 1 << 20;
    int64_t around = plan->scratch_bytes + extra, least = 0, all = 0;
    for (int i = 0; i < INK_N_NEEDS; i++) {
        int64_t whole = total_on_device(&needs[i], needs[i].n_parts), streamed = total_on_device(&needs[i], 0);
        least = larger(least, whole < streamed ? whole : streamed);
        all += whole;
        needs[i].n_stay = needs[i].n_parts;
        if (around + whole > limit) needs[i].n_stay = most_that_stay(&needs[i], limit - around, total_on_device);
    }
    plan->gpu_available_bytes = limit;
    plan->gpu_least_bytes = around + least;
    plan->gpu_keeps_weights = around + all <= limit;
    for (int i = 0; i < INK_N_NEEDS; i++) {
        int64_t more = needs[i].whole_bytes - needs[i].stored_bytes;
        needs[i].whole = plan->gpu_keeps_weights && more > 0 && around + all + more <= limit;
        if (needs[i].whole) all += more;
    }
    sum_up_device(plan, needs, around, all);
    if (plan->gpu_least_bytes > limit)
        return ink_fail(error, INK_ERROR_MEMORY,
                        "this picture needs %" PRId64
                        " MiB of the GPU's memory at the least (weights %.2f GiB, the rest %.2f GiB) and "
                        "may use %" PRId64 " MiB: ask for a smaller picture, a smaller --precision, or --backend cpu",
                        (plan->gpu_least_bytes + mib - 1) / mib, (double)least / gib, (double)around / gib, limit / mib);
    if (plan->available_bytes > 0 && plan->gpu_host_bytes > plan->available_bytes)
        return ink_fail(error, INK_ERROR_MEMORY,
                        "what does not fit the GPU's memory takes %.1f GiB of the host's, and %.1f GiB are available: ask for a "
                        "smaller --precision",
                        (double)plan->gpu_host_bytes / gib, (double)plan->available_bytes / gib);
    return INK_OK;
}

void ink_needs_release(ink_need needs[INK_N_NEEDS]) {
    for (int i = 0; i < INK_N_NEEDS; i++) {
        ink_free(needs[i].parts);
        needs[i] = (ink_need){0};
    }
}
