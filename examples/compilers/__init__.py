"""Compiling for accelerators that are not there, and counting what comes out."""
