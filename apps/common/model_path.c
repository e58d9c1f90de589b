/*
 * model_path.c - which model a program uses when none was named. The build says where the shipped models lie:
 * INK_INSTALL_MODELS_RELATIVE, as seen from the folder of an installed program, and INK_SOURCE_MODELS, in the source tree.
 */
#define _XOPEN_SOURCE 700 /* realpath */
#include "common/model_path.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/text_format.h"

#ifndef PATH_MAX
#define PATH_MAX 4096
#endif

/* The folder of the running program, with its slash; empty when the system does not tell. */
static void program_folder(char folder[PATH_MAX]) {
    ssize_t length = readlink("/proc/self/exe", folder, PATH_MAX - 1);
    folder[length > 0 ? length : 0] = 0;
    char *slash = strrchr(folder, '/');
    folder[slash ? slash + 1 - folder : 0] = 0;
}

/* Takes path over: it becomes *dir if a model lies there, and is released if not. */
static int use_if_model(char **dir, char *path) {
    char *index = path ? app_format("%s/model_index.json", path) : NULL;
    int found = index && access(index, F_OK) == 0;
    free(index);
    if (found)
        *dir = path;
    else
        free(path);
    return found;
}

ink_status app_model_path(char **dir, const char *named, ink_error *error) {
    const char *variable = getenv("INK_MODEL");
    char folder[PATH_MAX];
    *dir = NULL;
    if (!named && variable && *variable) named = variable;
    if (named) {
        *dir = app_format("%s", named);
        return *dir ? INK_OK : app_fail_memory(error, "a file name");
    }
    program_folder(folder);
    if (*folder && use_if_model(dir, app_format("%s" INK_INSTALL_MODELS_RELATIVE "/demo", folder))) return INK_OK;
    if (use_if_model(dir, app_format("%s", INK_SOURCE_MODELS "/demo"))) return INK_OK;
    return app_fail(error, INK_ERROR_IO, "the demo model is not installed: name a model folder with -m DIR, or set INK_MODEL");
}

char *app_absolute_path(const char *dir) {
    char *absolute = realpath(dir, NULL);
    return absolute ? absolute : app_format("%s", dir);
}
