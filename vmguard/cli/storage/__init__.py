"""``vmguard storage``: what the storage servers themselves know, and what follows from it.

asked     asks the configured servers, all at once; which mounts each one has
status    ``storage status``: up, in grace, for how long, who has not come back, is this host on record
locks     ``storage locks``: the locks as the server has them, by host
holder    ``who FILE --ask-storage``: the holder by name, beside the owner record
doctor    ``storage doctor``: would the server forget
plan      ``storage plan reboot``: what a reboot would do to each VM, and when
explain   ``storage explain``: why locks were lost
watch     ``storage watch``: a maintenance as it goes, and its report
release   ``storage release``: a dead host's state, released with proof
proofs    the signs of life that are looked for before a release
probe     ``storage probe``: prints the probe program
command   the command with its actions
"""
