"""How fast selfheald is, beside what people would do without it: measured in one run, in turns, on one machine.

``python -m benchmarks`` runs it; ``docs/performance.md`` shows what comes of it. Not part of the wheel.
"""
