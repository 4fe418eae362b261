"""The ground truth against which probes will measure: a masked factored LSTM actor-critic, torch only.

The package is empty until the reference is built; it exists so that the import contracts guard it from the first day.
"""
