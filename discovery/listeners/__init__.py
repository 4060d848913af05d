"""Sockets beside the HTTP endpoint, for programs that speak other protocols: HAProxy's agent check, and DNS.

They share the loop with gossip as the endpoint does: what they do in one round of it is bounded, and so is what all of
their callers together may take. Nobody has to prove who it is here, so both listen only where a setting says so.
"""
