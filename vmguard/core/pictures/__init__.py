"""Incidents as pictures: a host's history, line by line, becomes intervals, and these a page of SVG and HTML.

What the history does not say is not drawn: an interval has ends that are told, or that are marked as unknown. Lines of
several hosts are placed by each host's own clock, and what is known about that clock stands beside the picture.

entry         one line of a history, and incidents: lines that lie close together
clocks        the wall clock of a host, found in its history: its steps, and how exactly it is known
bars          the words of a picture: lanes, bars, marks
storage_lane  what a mount's lines say: silence, the lease that drains, recovery
vm_lane       what a VM's lines say: freeze, thaw, verdicts, conflicts, the steps of a fence
host_lane     what a daemon's lines say: its beginnings, maintenance, sleep
lanes         all lanes of one history
chapters      several hosts' lanes side by side, cut into chapters, one for each incident
moments       times and lengths for people, in this host's zone
axis          where a second stands on the paper; quiet stretches are cut out, and it shows
markup        strangers' words in XML
signs         marks as SVG
legend        what the colours and shapes mean
style         the colours, by day, by night and on paper
drawing       lanes as SVG
tables        the same as tables: what was decided, on which evidence
page          one self-contained page
"""
