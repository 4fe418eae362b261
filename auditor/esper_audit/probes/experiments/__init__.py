"""The experiments, one file each: claim, experiment, criterion and pitfalls stand in the docstring."""
