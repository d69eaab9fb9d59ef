"""HTTP as mlproj speaks it: one connection, and the proxies, logins and certificates that requests would use.

The base installation brings no HTTP client: `http.client` is loaded by whoever has something to ask.
"""
