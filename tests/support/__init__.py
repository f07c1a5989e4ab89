"""Helpers that several tiers of tests share.

file_guards         guards of files: in any state by events alone, and all events to be played in any order
"""
