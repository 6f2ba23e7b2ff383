"""Threads: the pool of workers, the slots that ops wait for, and the cores that they share."""
