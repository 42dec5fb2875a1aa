"""What TensorRT refuses or runs slowly, node by node and version by version; typed graphs for its later versions. No GPU."""
