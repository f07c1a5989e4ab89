"""The daemon's end of the protocol: what hooks and the command line can ask of it.

server           accepts connections, reads requests, has them served
sessions         one connection, and one request that came over it
claims           the requests of the hooks
refused_starts   the report of a start that a hook has refused
questions        the command line's questions: status, who, health, ping
commands         the command line's orders: adopt, disarm, arm
watchdog_status  what the watchdog knows, as JSON
host_view        the state of this host, for its health line
unit_status      the line that `systemctl status` shows
hook_prefork     keeps processes of the hook ready for the next start
"""
