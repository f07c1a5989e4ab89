"""The promise by model: a search over the real machine, rules played at random, and a model for Spin.

cases       what the search is asked, and what it must answer
frozen      the real machine as a value, and back
machines    the real machine as a function, computed once for each state and event
search      the search itself, nearest states first
world       two hosts, one server, one disk: whatever may happen next

``python -m tests.model`` prints all cases with their stories; ``--long`` looks at more than a million states each.
"""
