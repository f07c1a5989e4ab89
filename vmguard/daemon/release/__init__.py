"""Release a VM's locks on proof, and on nothing less.

file_users  who has files of these claims open
releaser    once it is dead, closed and drained: unlock, close, and forget the VM
"""
