"""Functions for `coding_agent.py` to write, of the kind that the bundled model `lab-target` was trained on."""


def run(s: str):
    """Swap the case, then split it into characters, then join them with spaces.

    >>> run('See Eve')
    's E E   e V E'
    >>> run('over house')
    'O V E R   H O U S E'
    """


def g(s: str):
    """Split it into words, then reverse each word, then join them with dashes.

    >>> g('tree house')
    'eert-esuoh'
    >>> g('Eve Moon')
    'evE-nooM'
    """


def solve(xs: list):
    """Keep the multiples of 3, then take each modulo 5, then sort them downwards.

    >>> solve([11, -3, 0])
    [2, 0]
    >>> solve([2, 5, 7, 3, -6])
    [4, 3]
    """


def f(xs: list):
    """Keep the large numbers, then double each, then return the sum.

    >>> f([7, 2, 9])
    32
    >>> f([6, 5, 8])
    28
    """
