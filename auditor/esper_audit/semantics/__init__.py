"""What the audited code means: trees, names, classes, methods and the flow of tensors through them.

Facts are found once per file and read by every rule. A fact that cannot be known is None or "unknown".
"""
