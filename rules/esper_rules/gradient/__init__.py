"""ESP3, gradient flow and numerics."""
