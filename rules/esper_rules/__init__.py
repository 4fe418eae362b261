"""The catalogue: one rule, one file, in one folder per section of an audit.

A new rule is a new file. Nothing registers it: the folders are walked.
"""
