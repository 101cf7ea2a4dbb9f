"""Loops, sleeps, memory, floods of output."""

# ruff: noqa: E501 - a program is read more easily on one line

from tests.verifiers.hostile import hostile

LOOPS = {
    "pure": hostile("def solve(n):\n    while True: pass", "cpu"),
    "at_import": hostile("while True: pass", "cpu"),
    "in_c": hostile("def solve(n): return sum(range(10**15))", "cpu"),
    "in_one_bytecode": hostile("def solve(n): return 7 ** (10 ** 9)", "cpu", "memory"),
    "regular_expression": hostile("import re\ndef solve(n): return re.match(r'(a|a)*$', 'a' * 60 + 'b')", "cpu"),
    "swallows_every_exception": hostile(
        "def solve(n):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass",
        "cpu",
    ),
    "in_a_destructor": hostile("class V:\n    def __del__(self):\n        while True: pass\ndef solve(n): V()", "cpu"),
    "in_the_exception_text": hostile(
        "class E(Exception):\n    def __str__(self):\n        while True: pass\ndef solve(n): raise E", "cpu"
    ),
    "threads": hostile(
        "import threading\ndef spin():\n    while True: pass\nfor _ in range(8): threading.Thread(target=spin).start()\n"
        "def solve(n): spin()",
        "cpu",
    ),
    "endless_value": hostile(
        "class L(list):\n    def __iter__(self):\n        while True: yield 1\ndef solve(n): return L()"
    ),
    "endless_iterator": hostile("import itertools\ndef solve(n): return list(itertools.repeat(0))", "cpu", "memory"),
    "fights_its_limit": hostile(
        "import resource\nfor k in (resource.RLIMIT_CPU, resource.RLIMIT_AS):\n"
        "    try: resource.setrlimit(k, (-1, -1))\n    except Exception: pass\ndef solve(n):\n    while True: pass",
        "cpu",
    ),
}
_LOWERED = "import resource\nresource.setrlimit(resource.RLIMIT_{}, (0, 0))\n"
LOWERED = {
    "cpu": hostile(_LOWERED.format("CPU") + "while True: pass", "crashed", "cpu"),
    "cpu_in_the_call": hostile(
        "def solve(n):\n    import resource\n    resource.setrlimit(resource.RLIMIT_CPU, (0, 0))\n    while True: pass",
        "crashed",
        "cpu",
    ),
    "memory": hostile(_LOWERED.format("AS") + "def solve(n): return bytearray(10**7)", "crashed", "memory"),
    "files": hostile(_LOWERED.format("NOFILE") + "def solve(n): return open('x')", "error"),
    "sizes_of_files": hostile(
        _LOWERED.format("FSIZE") + "def solve(n):\n    with open('x', 'w') as f: f.write('x')", "crashed", "error"
    ),
    "stack": hostile(_LOWERED.format("STACK") + "def solve(n): return solve(n)", "crashed", "error", "memory", "cpu"),
}
SLEEPS = {
    "sleep": hostile("import time\ndef solve(n): time.sleep(10**6)", "wall", sleeps=True),
    "sleep_at_import": hostile("import time\ntime.sleep(10**6)", "wall", sleeps=True),
    "deadlock": hostile(
        "import threading\ndef solve(n):\n    lock = threading.Lock(); lock.acquire(); lock.acquire()",
        "wall",
        sleeps=True,
    ),
    "reads_for_ever": hostile("import os\ndef solve(n):\n    r, w = os.pipe()\n    os.read(r, 1)", "wall", sleeps=True),
    "left_thread_that_never_ends": hostile(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(10**6,)).start()\ndef solve(n): return 0"
    ),
}
MEMORY = {
    "list": hostile("def solve(n): return [0] * 10**10", "memory"),
    "growing": hostile("def solve(n):\n    a = []\n    while True: a.append(bytearray(10**7))", "memory", "cpu"),
    "text": hostile("def solve(n):\n    s = 'x'\n    while True: s += s", "memory", "cpu"),
    "mapped": hostile("import mmap\ndef solve(n): return len(mmap.mmap(-1, 1 << 36))", "error", "memory"),
    "swallowed": hostile(
        "def solve(n):\n    a = []\n    while True:\n        try: a.append(bytearray(10**8))\n        except MemoryError: pass",
        "cpu",
    ),
    "in_the_private_folder": hostile(
        "def solve(n):\n    with open('big', 'wb') as f:\n        while True: f.write(bytes(10**6))", "error", "crashed"
    ),
    "in_a_nameless_file": hostile(
        "import os\ndef solve(n):\n    f = os.memfd_create('x')\n    while True: os.write(f, bytes(10**6))", "error"
    ),
    "in_pipes": hostile(
        "import os, fcntl\ndef solve(n):\n    while True:\n        r, w = os.pipe()\n        fcntl.fcntl(w, 1031, 1 << 20)\n"
        "        os.set_blocking(w, False)\n        os.write(w, bytes(1 << 20))",
        "error",
    ),
}
FLOODS = {
    "print": hostile("def solve(n):\n    while True: print('x' * 1000)", "output"),
    "print_at_import": hostile("while True: print('x' * 1000)", "output"),
    "descriptor": hostile("import os\ndef solve(n):\n    while True: os.write(1, b'x' * 1000)", "cpu"),
    "errors": hostile("import sys\ndef solve(n):\n    while True: sys.stderr.write('x' * 1000)", "output"),
    "huge_value": hostile("def solve(n): return 'x' * 10**7", "large"),
    "huge_exception": hostile("def solve(n): raise ValueError('x' * 10**7)", "error"),
    "answers_channel": hostile("import os\ndef solve(n):\n    while True: os.write(3, b'x' * 4096)", "output", "cpu"),
    "answers_channel_in_lines": hostile(
        "import os\ndef solve(n):\n    while True: os.write(3, b'\\n' * 4096)", "output", "crashed", "cpu"
    ),
    "deep_value": hostile("def solve(n):\n    a = []\n    for _ in range(10**5): a = [a]\n    return a"),
    "cyclic_value": hostile("def solve(n):\n    a = []\n    a.append(a)\n    return a"),
    "wide_cyclic_value": hostile("def solve(n):\n    a = []\n    a += [a, a, a]\n    return a", "cpu", "memory"),
}
FAMILIES = {"loops": LOOPS, "lowered limits": LOWERED, "sleeps": SLEEPS, "memory": MEMORY, "floods": FLOODS}
