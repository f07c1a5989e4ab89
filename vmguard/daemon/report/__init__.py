"""Reports of what happened, each made once.

history         the journal, ``vmguard history``, and all other receivers of a report
notify_command  the admin's command
"""
