/* hub_digest.h - the hash of a file while it grows: SHA-256 of its content, or git's SHA-1 where the hub knows no other. */
#ifndef APP_HUB_HUB_DIGEST_H
#define APP_HUB_HUB_DIGEST_H

#include <stdbool.h>
#include <stddef.h>

#include "common/pull_record.h"

typedef struct hub_digest hub_digest;

/* For the content that the file's entry promises. NULL when memory is out. */
hub_digest *hub_digest_create(const app_pull_file *expected);
void hub_digest_destroy(hub_digest **digest);

/* Back to no bytes at all. These return false when the library fails, which it does for want of memory only. */
bool hub_digest_restart(hub_digest *digest);
bool hub_digest_add(hub_digest *digest, const void *bytes, size_t size);

/* Whether the bytes so far have the promised hash. Ends the digest: restart it before anything is added again. */
bool hub_digest_matches(hub_digest *digest);

#endif
