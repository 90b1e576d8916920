// The attribute of small functions on vectors: a call would pass vectors through memory, which takes longer than most
// of them compute, and the compiler's estimate of their size leaves some out of line. tests/kernels/test_inlining.py finds
// those.
#pragma once

#define SOFTMAXKIT_INLINE [[gnu::always_inline]] inline
