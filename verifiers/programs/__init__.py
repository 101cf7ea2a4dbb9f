"""From tests to verdicts: the program's process returns plain data only, and everything is compared on this side.

`suite` defines the form of tests. `asserts` turns assertions into calls with conditions on their values, which
`safe_eval` computes and `compare` judges; `remote_tests` runs test code that needs an interpreter of its own. `plan`
puts the tests of a suite together, `judging` runs programs on it and forms verdicts.
"""
