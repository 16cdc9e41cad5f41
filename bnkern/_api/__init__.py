"""The public functions: signature, documentation, and the few lines that join check, engine and arithmetic.

References to "the paper": S. Ioffe, C. Szegedy, "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", arXiv 1502.03167.
"""
