"""The side of the sandbox that shares a process with untrusted code: standard library alone, never imported by a judge.

The exception is `codec`, which both sides use.
"""
