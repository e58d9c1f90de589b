/*
 * adapter_names.c - reading the names of LoRA files.
 * Sources: diffusers, lora_conversion_utils.py (qwen); PEFT, save_and_load.py and other.py (get_pattern_key); LyCORIS; ComfyUI,
 * lora.py.
 */
#include "tensor/adapter_names.h"

#include <string.h>

/* The word of a tensor's name that tells its part. Of a form that is known and not run, what to call it. */
static const struct {
    const char *word;
    bool weight; /* ".weight" follows */
    ink_adapter_part part;
    const char *unsupported;
} words[] = {
    {"lora_A", true, INK_DOWN, NULL},
    {"lora_B", true, INK_UP, NULL},
    {"lora_down", true, INK_DOWN, NULL},
    {"lora_up", true, INK_UP, NULL},
    {"alpha", false, INK_ALPHA, NULL},
    {"lokr_w1", false, INK_LOKR_W1, NULL},
    {"lokr_w1_a", false, INK_LOKR_W1_A, NULL},
    {"lokr_w1_b", false, INK_LOKR_W1_B, NULL},
    {"lokr_w2", false, INK_LOKR_W2, NULL},
    {"lokr_w2_a", false, INK_LOKR_W2_A, NULL},
    {"lokr_w2_b", false, INK_LOKR_W2_B, NULL},
    {"hada_w1_a", false, INK_HADA_W1_A, NULL},
    {"hada_w1_b", false, INK_HADA_W1_B, NULL},
    {"hada_w2_a", false, INK_HADA_W2_A, NULL},
    {"hada_w2_b", false, INK_HADA_W2_B, NULL},
    {"dora_scale", false, 0, "DoRA"},
    {"lora_magnitude_vector", false, 0, "DoRA"},
    {"lora_magnitude_vector", true, 0, "DoRA"},
    {"lokr_t2", false, 0, "a Tucker decomposition"},
    {"hada_t1", false, 0, "a Tucker decomposition"},
    {"hada_t2", false, 0, "a Tucker decomposition"},
    {"lora_mid", true, 0, "a Tucker decomposition"},
    {"diff", false, 0, "a whole change of a weight"},
    {"diff_b", false, 0, "a change of a bias"},
    {"w_norm", false, 0, "a change of a norm"},
    {"b_norm", false, 0, "a change of a norm"},
    {"oft_blocks", false, 0, "OFT"},
    {"oft_R", false, 0, "OFT"},
    {"oft_R", true, 0, "OFT"},
};

/* They may stand in front of each other. */
static const char *const prefixes[] = {"base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.",
                                       "lora_unet_",        "lora_transformer_",      "lycoris_"};

static const char *const text_encoders[] = {"text_encoder", "lora_te"};

static bool starts_with(const char *text, size_t length, const char *start) {
    size_t n = strlen(start);
    return length > n && strncmp(text, start, n) == 0;
}

static void strip_prefixes(const char **name, size_t *length) {
    enum { N = sizeof prefixes / sizeof *prefixes };
    for (size_t i = 0; i < N;) {
        if (!starts_with(*name, *length, prefixes[i])) {
            i++;
            continue;
        }
        *name += strlen(prefixes[i]);
        *length -= strlen(prefixes[i]);
        i = 0;
    }
}

static bool make_key(char key[INK_ADAPTER_KEY], const char *name, size_t length) {
    if (length == 0 || length >= INK_ADAPTER_KEY) return false;
    for (size_t i = 0; i < length; i++) key[i] = name[i] == '.' ? '_' : name[i];
    key[length] = '\0';
    return true;
}

/* Takes ".weight" off. */
static bool strip_weight(const char *name, size_t *length) {
    static const char weight[] = ".weight";
    const size_t n = sizeof weight - 1;
    if (*length <= n || strncmp(name + *length - n, weight, n) != 0) return false;
    *length -= n;
    return true;
}

bool ink_adapter_key(char key[INK_ADAPTER_KEY], const char *matrix) {
    size_t length = strlen(matrix);
    strip_weight(matrix, &length);
    strip_prefixes(&matrix, &length);
    return make_key(key, matrix, length);
}

/* Where the last word of name[0..length) begins, after a dot; 0 when there is none. */
static size_t last_word(const char *name, size_t length) {
    while (length > 0 && name[length - 1] != '.') length--;
    return length;
}

static int find_word(const char *word, size_t length, bool weight) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].weight == weight && strlen(words[i].word) == length && strncmp(words[i].word, word, length) == 0)
            return (int)i;
    return -1;
}

/* The word that ends the name; or the one before it, where PEFT has put an adapter's name last. *module: what stands before it. */
static int find_part(const char *tensor, size_t *n_module) {
    size_t length = strlen(tensor);
    bool weight = strip_weight(tensor, &length);
    for (int level = 0; level < 2; level++) {
        size_t first = last_word(tensor, length);
        if (first < 2) return -1;
        int found = find_word(tensor + first, length - first, weight);
        *n_module = first - 1;
        if (found >= 0 && (level == 0 || words[found].part != INK_ALPHA)) return found;
        length = first - 1;
    }
    return -1;
}

ink_status ink_adapter_name_parse(ink_adapter_name *name, const char *tensor, const char *origin, ink_error *error) {
    size_t length = 0;
    int found = find_part(tensor, &length);
    if (found < 0)
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s is part of no LoRA, LoKr or LoHa that is known", origin,
                        tensor);
    if (words[found].unsupported)
        return ink_fail(error, INK_ERROR_UNSUPPORTED, "%s: tensor %s is of %s, which is not supported", origin, tensor,
                        words[found].unsupported);
    *name = (ink_adapter_name){.part = words[found].part, .module = tensor};
    strip_prefixes(&name->module, &length);
    name->n_module = length;
    for (size_t i = 0; i < sizeof text_encoders / sizeof *text_encoders; i++)
        if (starts_with(name->module, length, text_encoders[i]))
            return ink_fail(error, INK_ERROR_UNSUPPORTED,
                            "%s: tensor %s changes a text encoder; only the transformer can have a LoRA", origin, tensor);
    if (!make_key(name->key, name->module, length))
        return ink_fail(error, INK_ERROR_FORMAT, "%s: tensor %.300s has too long a name", origin, tensor);
    return INK_OK;
}

/* ---- patterns ------------------------------------------------------------------------------------------------------------ */

static bool is_word_character(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
}

bool ink_adapter_pattern_is_plain(const char *pattern) {
    pattern += *pattern == '^';
    for (; *pattern; pattern++) {
        if (pattern[0] == '\\' && pattern[1] == '.') pattern++;
        if (!is_word_character(*pattern)) return false;
    }
    return true;
}

bool ink_adapter_pattern_matches(const char *pattern, const char *module, size_t n_module) {
    bool whole = *pattern == '^';
    const char *p = pattern + strlen(pattern), *first = pattern + whole;
    size_t n = n_module;
    /* From the end, which has to fit in any case. */
    while (p > first && n > 0 && p[-1] == module[n - 1]) {
        n--;
        p--;
        if (*p == '.' && p > first && p[-1] == '\\') p--;
    }
    return p == first && (n == 0 || (!whole && module[n - 1] == '.'));
}
