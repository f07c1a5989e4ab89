"""Coverage-guided fuzzing of everything that reads what others have written, and of the daemon's socket.

targets   what is fuzzed: one function of bytes for each parser
seeds     where it begins; a find becomes one of them, and a plain test beside the others of that parser

``python -m tests.fuzz domain_xml 60`` fuzzes one target for a minute. It needs atheris, which
`tests/run --long` installs.
"""
