// GCC's own _tile_loadconfig tells the compiler that it reads 8 of the 64 bytes it is given, and the
// code that writes the others is left out. This one says 64. See ggml.cmake.
#if defined(__AMX_TILE__)
#include <immintrin.h>
static inline void tile_load_all_of_config(const void * config) {
    __asm__ volatile("ldtilecfg\t%X0" ::"m"(*(const char (*)[64]) config));
}
#define _tile_loadconfig tile_load_all_of_config
#endif
