"""Actions on a VM in trouble, as core/watchdog decides them.

conflicts  files that a VM writes to although another holder has their lock
evidence   the progress of a fence, and its evidence, collected anew at each check
fencer     the steps of the fence ladder
signals    freeze, thaw and kill: the only module that sends signals
"""
