"""The watchdog inside the daemon: it tells the pure machine what happens and carries out what that orders.

driver            the machine's event queue and its clock
effects           one executor for each effect
guest_clocks      the clocks of guests that were frozen
lease_store       how old each lease was, for a later daemon
maintenance_mode  disarm and arm
observer          mounts, leases, VMs and the kernel's log, told to the machine
probe_threads     the threads that probe locks, and may hang
probes            the probes under way
server_answers    what the storage servers say of themselves, asked for by child processes
"""
