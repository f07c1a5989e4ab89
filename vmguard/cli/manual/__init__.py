"""The manual pages, made from the program itself: its parsers, its table of settings, its hooks' contract.

pages     vmguard(8), vmguard.yaml(5), vmguard-hooks(7)
security  vmguard-security(7)
examples  the examples of all pages
roff      writes a page as roff
"""
