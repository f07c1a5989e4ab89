"""The promise by model: a search over the real machine, rules played at random, and a model for Spin.

cases       what the search is asked, and what it must answer
frozen      the real machine as a value, and back
machines    the real machine as a function, computed once for each state and event
search      the search itself, nearest states first
switches    the switches of guard.pml, the model for Spin, and what each must show
world       two hosts, one server, one disk: whatever may happen next

``python -m tests.model`` prints all cases with their stories, ``python -m tests.model.switches`` what Spin finds; with
``--long`` both look at more than a million states.
"""
