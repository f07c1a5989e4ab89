"""The manual pages, made from what the program itself says: its parsers, its table of settings, its hooks' contract."""
