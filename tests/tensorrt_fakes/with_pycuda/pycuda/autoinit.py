"""It would make a context of its own, which shares nothing with TensorRT's."""

raise AssertionError("pycuda.autoinit is not for libraries")
