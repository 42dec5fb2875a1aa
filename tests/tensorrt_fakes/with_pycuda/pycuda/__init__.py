"""A strict fake of pycuda: the names, parameters and errors of its documentation that a program without kernels may use."""

VERSION = (2026, 1)
VERSION_TEXT = "2026.1"
