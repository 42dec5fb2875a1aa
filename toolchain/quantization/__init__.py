"""INT8: streaming calibration, Q/DQ placement by runtime, recipes, and the accuracy gate."""
