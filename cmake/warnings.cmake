# Warnings for every C file of the tree. -Wconversion is left out: kernels convert between widths on purpose, everywhere.
set(INK_C_WARNINGS
  -Wall
  -Wextra
  -Wpedantic
  -Wcast-qual
  -Wformat=2
  -Wmissing-prototypes
  -Wold-style-definition
  -Wpointer-arith
  -Wshadow
  -Wstrict-prototypes
  -Wundef
  -Wvla
  -Wwrite-strings
)
if(INK_WERROR)
  list(APPEND INK_C_WARNINGS -Werror)
endif()
add_compile_options("$<$<COMPILE_LANGUAGE:C>:${INK_C_WARNINGS}>")
