/*
 * cuda_module.h - the functions of the CUDA module that the program asks for by name.
 */
#ifndef INK_OPS_CUDA_CUDA_MODULE_H
#define INK_OPS_CUDA_CUDA_MODULE_H

#include "ops/device.h"

#define INK_CUDA_MODULE_FILE "libinkstone_cuda.so"
#define INK_CUDA_MODULE_OPEN "ink_cuda_module_open"

/*
 * Opens the GPU of that number. NULL when it went well; device->close ends its use. Else why it cannot be used, in static storage.
 * `interface`: INK_DEVICE_INTERFACE as the caller knows it.
 */
typedef const char *ink_cuda_module_open_fn(ink_device *device, int ordinal, int interface);

#endif
