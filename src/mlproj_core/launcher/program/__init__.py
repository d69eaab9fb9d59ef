"""The launcher's own modules: standard library only, Python 3.8 and up. `launcher.source` makes one file of them."""
