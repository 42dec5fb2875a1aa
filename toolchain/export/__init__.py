"""Torch to ONNX: traced, simplified in a process of its own, compared with torch on real images."""
