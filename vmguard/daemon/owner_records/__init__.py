"""Keeps the owner records on the storage true, for people and for other hosts: never in the way of a lock.

write_late      writes records of files that were locked without a hook
mark_released   marks records as released
"""
