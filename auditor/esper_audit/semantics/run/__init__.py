"""The abstract run of one function, layer by layer: names, tensors, calls, conditions, expressions, statements."""
