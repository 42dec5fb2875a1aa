"""TensorRT on the device, 8.5 to 11.4 from one source: what a version lacks is asked for with getattr(), never by its number."""
