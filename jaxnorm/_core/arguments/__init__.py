"""The arguments that accompany x: their checks, and their alignment with x."""
