"""Whether a kernel may compute a product and the sum that follows as one fused multiply-add, which rounds once.

    _kernel[grid](*arguments, **FUSED)

Every launch states one of the two, as the default differs between versions of Triton.
"""

FUSED = {"enable_fp_fusion": True}  # faster, and at least as exact
SEPARATE = {"enable_fp_fusion": False}  # for results whose bits must be those of plain torch
