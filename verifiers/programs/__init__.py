"""From tests to verdicts: the program's process only returns plain data; everything is compared here.

`suite` has the form of tests, `asserts` turns assertions into calls, `compare` says what is equal, `plan` puts the
cases of a suite together, `dialogue` runs test code that needs an interpreter of its own, `judge` runs a plan.
"""
