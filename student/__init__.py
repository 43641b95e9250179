"""Students: light networks and the weights that fit them. Imports nothing of `distill` or `teacher`."""
