"""Messages to people elsewhere: where they wait, and the ways on which they leave this host.

queue     what waits for each target, on this host's own disk
delivery  send what waits for a target, if it is time
secret    a password, token or URL that is in no configuration
sending   one message by one target, and what came of it
smtp      mail, by SMTP or by the system's own sendmail
webhook   an HTTP POST of JSON
services  apprise, and Proxmox VE's notification system
"""
