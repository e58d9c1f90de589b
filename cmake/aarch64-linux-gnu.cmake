# Cross-builds for 64-bit ARM on another machine, and runs the tests under qemu (preset `aarch64`). `tools/bootstrap.sh aarch64`
# installs the compiler and the emulator and unpacks the libraries; nothing of the system's own libraries is seen.
# QEMU_CPU in the environment chooses what processor the tests find: cortex-a72, or max, which is the default and has bf16.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)

cmake_path(SET INK_AARCH64_ROOT NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../build-aarch64-root")
set(CMAKE_FIND_ROOT_PATH ${INK_AARCH64_ROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
set(ENV{PKG_CONFIG_SYSROOT_DIR} ${INK_AARCH64_ROOT})
set(ENV{PKG_CONFIG_LIBDIR} ${INK_AARCH64_ROOT}/usr/lib/aarch64-linux-gnu/pkgconfig)

set(CMAKE_CROSSCOMPILING_EMULATOR qemu-aarch64 -L /usr/aarch64-linux-gnu)
