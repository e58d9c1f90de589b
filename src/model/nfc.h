/*
 * nfc.h - Unicode normalisation form C of a text. Source: Unicode Standard Annex #15; decomposition, combining classes and
 * composition are utf8proc's, the ordering of the marks is our own because utf8proc's takes quadratic time.
 */
#ifndef INK_MODEL_NFC_H
#define INK_MODEL_NFC_H

#include <stddef.h>

#include "base/error.h"

/*
 * Normalises text[0..n_bytes), in which U+0000 is a character like others. *normal is allocated (release with ink_free) and
 * holds *n_normal bytes of UTF-8. Errors: ARGUMENT (invalid UTF-8, the byte offset is named; too long), MEMORY.
 */
ink_status ink_nfc(char **normal, size_t *n_normal, const char *text, size_t n_bytes, ink_error *error);

#endif
