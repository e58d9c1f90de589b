/* model_path.h - which model a program uses when none was named. */
#ifndef APP_COMMON_MODEL_PATH_H
#define APP_COMMON_MODEL_PATH_H

#include "common/failure.h"

/*
 * named (may be NULL), else $INK_MODEL, else the demo model that is shipped: beside an installed program, then in the source
 * tree it was built from. *dir is released with free. Errors: IO (there is none), MEMORY.
 */
ink_status app_model_path(char **dir, const char *named, ink_error *error);

/* An absolute form of dir for records, or a copy where that cannot be had. Released with free; NULL when memory is out. */
char *app_absolute_path(const char *dir);

#endif
