"""A trained YOLO goes in with a device and a budget; a measured engine that meets it comes out."""

__version__ = "0.1.0"
