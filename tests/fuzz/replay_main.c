/*
 * replay_main.c - stands in for libFuzzer: gives every file of the folders and files named on the command line to the target
 * once. A corpus is so a test with any compiler; a target that finds a fault ends the program itself.
 */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Runs the target on one file; false when it cannot be read. The block has exactly the file's size, for the sanitizers. */
static int replay_file(const char *path) {
    FILE *file = fopen(path, "rb");
    struct stat status;
    if (!file || fstat(fileno(file), &status) != 0) {
        fprintf(stderr, "%s: cannot be read\n", path);
        if (file) fclose(file);
        return 0;
    }
    size_t size = (size_t)status.st_size;
    uint8_t *data = malloc(size ? size : 1);
    int complete = data && fread(data, 1, size, file) == size;
    fclose(file);
    if (complete)
        LLVMFuzzerTestOneInput(data, size);
    else
        fprintf(stderr, "%s: cannot be read\n", path);
    free(data);
    return complete;
}

/* Returns the number of files that ran, or -1. */
static long replay(const char *path) {
    struct stat status;
    if (stat(path, &status) != 0) {
        fprintf(stderr, "%s: does not exist\n", path);
        return -1;
    }
    if (!S_ISDIR(status.st_mode)) return replay_file(path) ? 1 : -1;

    struct dirent **entries;
    int n_entries = scandir(path, &entries, NULL, alphasort);
    long n_files = n_entries < 0 ? -1 : 0;
    for (int i = 0; i < n_entries; i++) {
        char child[4096];
        int length = snprintf(child, sizeof child, "%s/%s", path, entries[i]->d_name);
        if (entries[i]->d_name[0] != '.' && n_files >= 0) {
            long n = length < (int)sizeof child ? replay(child) : -1;
            n_files = n < 0 ? -1 : n_files + n;
        }
        free(entries[i]);
    }
    if (n_entries >= 0) free(entries);
    return n_files;
}

int main(int argc, char **argv) {
    long total = 0;
    for (int i = 1; i < argc; i++) {
        long n = replay(argv[i]);
        if (n < 0) return 1;
        total += n;
    }
    printf("%ld inputs\n", total);
    if (total == 0) fprintf(stderr, "no inputs: name a folder that holds some\n");
    return total == 0;
}
