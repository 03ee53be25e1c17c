"""Putting a finished file where others may be about to open one: for the child, and for selfheald itself.

Standard library only. The child has it as ``placing``, selfheald as ``selfheald.child.placing``: so its modules name
each other relatively, and nothing else.
"""
