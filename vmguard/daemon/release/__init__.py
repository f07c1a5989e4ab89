"""Release a VM's locks on proof, and on nothing less.

releaser    once it is dead, closed and drained: unlock, close, and forget the VM
"""
