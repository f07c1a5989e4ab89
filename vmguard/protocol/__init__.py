"""The protocol between hooks, command line and daemon.

wire      the transport: messages and descriptors over a unix socket
messages  the messages of a claim, typed: what daemon and hook tell each other
requests  the table of requests: keys with their types, sender, answer
adoption  the messages of ``adopt``
client    the command line's client
readers   the socket for those who may ask and change nothing
"""
