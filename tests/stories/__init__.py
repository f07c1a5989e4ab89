"""The watchdog in simulated time: see test_stories.py."""
