/* On x86, in a function that begins with FLUSHED, numbers nearer to 0 than 1e-38 are 0; afterwards they are kept again.

   Slopes of a network that has been trained for long are full of them, and each costs far more than others. */

#if defined(__SSE__)
#include <xmmintrin.h>

static inline unsigned flush(void) {
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
}

static inline void restore(const unsigned *before) { _mm_setcsr(*before); }

#define FLUSHED __attribute__((cleanup(restore), unused)) const unsigned before_flush = flush()
#else
#define FLUSHED
#endif
