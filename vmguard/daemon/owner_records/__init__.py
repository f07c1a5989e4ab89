"""Keep the owner records on the storage up to date, for people and other hosts, without ever delaying a lock.

write_late      writes records of files that were locked without a hook
mark_released   marks records as released
"""
