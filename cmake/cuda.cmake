# The CUDA back end: a module of its own (libinkstone_cuda.so) that the program opens at run time, so that nothing else needs
# CUDA's libraries. INK_CUDA turns it on. Beside the CUDA toolkit it needs cuBLASLt, cuDNN 9 and cuDNN's C++ front end (headers):
# INK_CUDA_PATHS lists folders that hold include/ and lib/ of those, such as the nvidia packages of a Python environment.

enable_language(CUDA)
find_package(CUDAToolkit 12.8 REQUIRED)
set(INK_CUDA_PATHS "" CACHE STRING "Folders with include/ and lib/ of cuBLAS, cuDNN and cudnn-frontend")

find_path(INK_CUBLAS_INCLUDE cublasLt.h HINTS ${INK_CUDA_PATHS} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include REQUIRED)
find_path(INK_CUDNN_INCLUDE cudnn.h HINTS ${INK_CUDA_PATHS} ${CUDAToolkit_INCLUDE_DIRS} PATH_SUFFIXES include REQUIRED)
find_path(INK_CUDNN_FRONTEND_INCLUDE cudnn_frontend.h HINTS ${INK_CUDA_PATHS} PATH_SUFFIXES include REQUIRED)
find_library(INK_CUBLASLT cublasLt libcublasLt.so.13 libcublasLt.so.12 HINTS ${INK_CUDA_PATHS} ${CUDAToolkit_LIBRARY_DIR}
  PATH_SUFFIXES lib lib64 REQUIRED)

# Hopper's own instructions are in sm_90a; 80 and 89 run what every GPU since Ampere has.
if(NOT CMAKE_CUDA_ARCHITECTURES OR CMAKE_CUDA_ARCHITECTURES STREQUAL "52" OR CMAKE_CUDA_ARCHITECTURES STREQUAL "75")
  set(CMAKE_CUDA_ARCHITECTURES 80-real 89-real 90a-real)
endif()

file(GLOB INK_CUDA_SOURCES CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cu ${PROJECT_SOURCE_DIR}/src/ops/cuda/*.cpp)
add_library(ink_cuda MODULE ${INK_CUDA_SOURCES})
set_target_properties(ink_cuda PROPERTIES
  OUTPUT_NAME inkstone_cuda
  CXX_STANDARD 17 CUDA_STANDARD 17 CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
  CUDA_RUNTIME_LIBRARY Static
  LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR})
target_include_directories(ink_cuda PRIVATE ${PROJECT_SOURCE_DIR}/src ${PROJECT_SOURCE_DIR}/include)
target_include_directories(ink_cuda SYSTEM PRIVATE
  ${CUDAToolkit_INCLUDE_DIRS} ${INK_CUBLAS_INCLUDE} ${INK_CUDNN_INCLUDE} ${INK_CUDNN_FRONTEND_INCLUDE})
target_compile_options(ink_cuda PRIVATE
  $<$<COMPILE_LANGUAGE:CUDA>:--extended-lambda --expt-relaxed-constexpr -Xcompiler=-Wall,-Wextra,-Werror>
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Werror>)
if(CMAKE_CUDA_ARCHITECTURES MATCHES "90a")
  target_compile_definitions(ink_cuda PRIVATE INK_CUDA_HOPPER) # code for sm_90a, which others do not run
endif()
target_link_libraries(ink_cuda PRIVATE ${INK_CUBLASLT} CUDA::cudart_static ${CMAKE_DL_LIBS})
install(TARGETS ink_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}/inkstone)
