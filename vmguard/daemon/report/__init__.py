"""What happened, told once.

history         the journal, ``vmguard history``, and everybody else who is told
notify_command  the admin's command
"""
