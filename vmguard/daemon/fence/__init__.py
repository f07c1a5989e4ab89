"""What is done to a VM in trouble. What it is that is to be done is decided in core/watchdog.

conflicts  files that a VM writes to although somebody else has their lock
evidence   how far a fence has come, as found anew at each look
fencer     the steps of the fence ladder
signals    freeze, thaw and kill: the only module that sends signals
"""
