"""Teachers: SalFoM and the weights that fit it. Imports nothing of `distill` or `student`."""
