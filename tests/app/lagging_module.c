/* lagging_module.c - the lagging device as a module that the program opens in place of a GPU's (INK_CUDA_MODULE). */
#include "ops/cuda/cuda_module.h"
#include "support/lagging_device.h"

__attribute__((visibility("default"))) ink_cuda_module_open_fn ink_cuda_module_open;

const char *ink_cuda_module_open(ink_device *device, int ordinal, int interface) {
    if (interface != INK_DEVICE_INTERFACE) return "the module belongs to another version";
    if (ordinal != 0) return "there is no GPU of that number";
    *device = lagging_device((int64_t)4 << 30);
    return NULL;
}
