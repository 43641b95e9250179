"""What `distill/quantize.py` is made of: real frames to calibrate and compare on, and the INT8 graph."""
