/* model_path.h - which model a program uses: by path, by name, or when none was named. */
#ifndef APP_COMMON_MODEL_PATH_H
#define APP_COMMON_MODEL_PATH_H

#include "common/failure.h"

/*
 * named (may be NULL), else $INK_MODEL, else the demo model that is shipped. What is named is a folder that is there, else a
 * model of that name (common/model_store.h): pulled, in the hub's cache, or shipped. *dir is released with free.
 * Errors: IO (there is none, and which there are; or a pull of it has not ended), MEMORY.
 */
ink_status app_model_path(char **dir, const char *named, ink_error *error);

/* The folder of the demo model: beside an installed program, else in the source tree it was built from. NULL: neither. */
char *app_shipped_model(void);

/* An absolute form of dir for records, or a copy where that cannot be had. Released with free; NULL when memory is out. */
char *app_absolute_path(const char *dir);

#endif
