"""The lab: small models that ship with the library, the engine that runs them in this process, and their tasks.

The templates below have the lab models play a strategy's other roles on `lab_code` and `lab_math`. The models were
trained on exactly these, so strategies and verifiers that run on them are given these in place of their own. `$name`
stands for what the strategy fills in; `$problem` is the problem's own text. The models answer with:

    OBSERVE, DERIVE      {"observations": ["...", "..."]}, what a piece of the specification means
    IDEA, PLAN, REPLAN   numbered lines, one for each line of the program
    CODE, REPAIR         the whole function
    REWRITE              the signature with a precise docstring, itself a prompt
    JUDGE                Yes or No
    TESTS                assert statements, one a line
"""

OBSERVE = "$problem\n\nObserve."
DERIVE = "$problem\n\nObserved:\n$observations\n\nObserve more."
IDEA = "$problem\n\nPlan."
PLAN = "$problem\n\nObserved:\n$observations\n\nPlan."
REPLAN = "$problem\n\nWrong plan:\n$plan\n\nPlan."
CODE = "$problem\n\nPlan:\n$plan\n\nWrite the code."
REPAIR = "$problem\n\nWrong code:\n$answer\n\n$feedback\n\nRepair."
REWRITE = "$problem\n\nOften wrong:\n$failures\n\nRewrite."
JUDGE = "$problem\n\nAnswer:\n$answer\n\nIs it right?"
TESTS = "$problem\n\nWrite tests."
