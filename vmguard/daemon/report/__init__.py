"""Reports of what happened, each made once.

acknowledged    up to where a person has acknowledged it
history         the journal, ``vmguard history``, and all other receivers of a report
notices         messages for the targets of notify.targets
notify_command  the admin's command
"""
