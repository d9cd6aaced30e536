"""Readers of what people have as data in Python: each makes inputs and targets of one kind of object."""
