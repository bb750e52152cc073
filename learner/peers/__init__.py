"""Other architectures for the same task, trained on the same data with the same seconds, to be compared with ours.

Nothing outside knows of them but the command that measures.
"""
