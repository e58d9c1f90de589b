/* hub_digest.c - SHA-256 and git's SHA-1, by libcrypto. */
#include "hub/hub_digest.h"

#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hub_digest {
    EVP_MD_CTX *context;
    const app_pull_file *expected;
};

hub_digest *hub_digest_create(const app_pull_file *expected) {
    hub_digest *digest = calloc(1, sizeof *digest);
    if (!digest) return NULL;
    *digest = (hub_digest){.context = EVP_MD_CTX_new(), .expected = expected};
    if (!digest->context || !hub_digest_restart(digest)) hub_digest_destroy(&digest);
    return digest;
}

void hub_digest_destroy(hub_digest **digest) {
    if (!*digest) return;
    EVP_MD_CTX_free((*digest)->context);
    free(*digest);
    *digest = NULL;
}

bool hub_digest_restart(hub_digest *digest) {
    const app_pull_file *expected = digest->expected;
    char header[40];
    if (expected->sha256[0]) return EVP_DigestInit_ex(digest->context, EVP_sha256(), NULL) == 1;
    int length = snprintf(header, sizeof header, "blob %" PRId64, expected->size);
    return EVP_DigestInit_ex(digest->context, EVP_sha1(), NULL) == 1 && hub_digest_add(digest, header, (size_t)length + 1);
}

bool hub_digest_add(hub_digest *digest, const void *bytes, size_t size) {
    return EVP_DigestUpdate(digest->context, bytes, size) == 1;
}

bool hub_digest_matches(hub_digest *digest) {
    const char *expected = digest->expected->sha256[0] ? digest->expected->sha256 : digest->expected->git_sha1;
    unsigned char bytes[EVP_MAX_MD_SIZE];
    char hex[2 * EVP_MAX_MD_SIZE + 1] = "";
    unsigned size = 0;
    if (EVP_DigestFinal_ex(digest->context, bytes, &size) != 1) return false;
    for (unsigned i = 0; i < size; i++) snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    return strcmp(hex, expected) == 0;
}
