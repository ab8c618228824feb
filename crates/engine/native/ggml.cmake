# Read by CMake at the start of ggml (`.cargo/config.toml` names it): what ggml's build needs beside
# what llama-cpp-sys-2 gives it.

# On a CPU with AMX, ggml compiled by GCC before 12.4 and 13.3 dies of a segmentation fault in its
# first matrix product: https://gcc.gnu.org/bugzilla/show_bug.cgi?id=114098
if (CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND
    (CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12.4 OR
     (CMAKE_CXX_COMPILER_VERSION VERSION_GREATER_EQUAL 13 AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13.3)))
    add_compile_options("$<$<COMPILE_LANGUAGE:CXX>:SHELL:-include ${CMAKE_CURRENT_LIST_DIR}/tile_config.h>")
endif()
