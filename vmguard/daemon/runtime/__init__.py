"""The base of every part of the daemon.

command_lines    the arguments of processes, read in threads that may hang
descriptors      the budget of file descriptors: claims first, and an alarm before they run out
loop             descriptors that become readable, and deadlines on CLOCK_BOOTTIME
storage_threads  calls that may hang with a storage, in one thread for each device
subprocesses     programs that run as children: started, polled, never waited for
"""
