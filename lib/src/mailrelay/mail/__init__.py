"""The field's words as values: addresses, jobs, replies, dispositions, retry schedules.

Nothing here does input or output, reads a clock or tosses a coin: what depends on time or chance
takes it as an argument. Only the standard library is imported.
"""
