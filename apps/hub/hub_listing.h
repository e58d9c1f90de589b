/*
 * hub_listing.h - the hub's answer to "what is in this repository?", and which of it a pipeline needs. The answer is foreign:
 * a name that leads out of the folder, a size or a hash that is none refuses the whole of it.
 */
#ifndef APP_HUB_HUB_LISTING_H
#define APP_HUB_HUB_LISTING_H

#include "common/pull_record.h"

typedef struct hub_listing {
    char commit[65];      /* hex digits */
    app_pull_file *files; /* with path, size and hash; as listed */
    size_t n_files;
} hub_listing;

/* origin names the answer in sentences. Release with hub_listing_clear. Errors: FORMAT, MEMORY. */
ink_status hub_listing_parse(hub_listing *listing, const char *text, size_t size, const char *origin, ink_error *error);
void hub_listing_clear(hub_listing *listing);

/*
 * Leaves the files that a text-to-image pipeline reads: configs, the tokenizer, and of each network its sharded weights where
 * there is an index, else the single file; no variants (fp16), no other formats, no pictures.
 * Errors: UNSUPPORTED (the repository holds no pipeline), FORMAT (a file that is needed has neither size nor hash).
 */
ink_status hub_listing_keep_needed(hub_listing *listing, const char *repo, ink_error *error);

/* Whether the path, or its last part, matches a pattern of the shell's kind, such as "vae*" or "*.json". */
bool hub_matches_pattern(const char *path, const char *pattern);

#endif
