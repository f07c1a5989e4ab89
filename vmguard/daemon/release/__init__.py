"""Ends claims: the locks of a VM are let go on proof, and on nothing less.

file_users  who has files of these claims open
releaser    dead, closed, drained: then unlock, close, and forget the VM
"""
