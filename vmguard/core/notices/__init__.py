"""Messages about events for people elsewhere. Pure.

event    one event, as it waits and as it is sent
wanted   which target gets which event, and what an event opens and ends
message  many events as one message
pace     when the next attempt may be made
"""
