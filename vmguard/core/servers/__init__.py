"""What a storage server says of itself, and what follows from it for people. Pure.

It explains, plans and speeds up. The verdict about a lock stays with the client that asks for it through the lock's
own descriptor (vmguard/core/watchdog): a server's administration may be wrong, old, or that of another export.

facts     what a server can say, in types; what it cannot know is None
document  the probe's JSON document, bounded and checked
knfsd     the document of a Linux server, read into facts
clients   the server's lists of clients and of their locks
names     the client id that a host tells a server, and the host's name in it
outlook   what a reboot of the server would do to each VM, and when
release   whether a dead host's lock may be released, and why not
epilogue  why locks were lost: what the server's log and its database tell
"""
