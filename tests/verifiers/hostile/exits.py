"""Wrong answers, early ends, signals, crashes."""

# ruff: noqa: E501 - a program is read more easily on one line

from tests.verifiers.hostile import hostile

WRONG = {
    "wrong_value": hostile("def solve(n): return n * n"),
    "nothing_returned": hostile("def solve(n): n * n"),
    "nearly_right": hostile("def solve(n): return n * n + 1 + 1e-12"),
    "right_digits_as_text": hostile("def solve(n): return {3: '10', 12: '145'}.get(n)"),
    "no_such_function": hostile("def solved(n): return n * n + 2"),
    "does_not_compile": hostile("def solve(n) return n", "error"),
    "right_once": hostile("def solve(n, seen=[]):\n    seen.append(n)\n    return 10 if len(seen) == 1 else 0"),
}
EXITS = {
    "exit_at_import": hostile("import sys\nsys.exit(0)", "error"),
    "hard_exit_at_import": hostile("import os\nos._exit(0)", "crashed"),
    "exit_in_the_call": hostile("import sys\ndef solve(n): sys.exit(0)", "error"),
    "hard_exit_in_the_call": hostile("import os\ndef solve(n): os._exit(0)", "crashed"),
    "builtin_exit": hostile("def solve(n): exit()", "error"),
    "exit_from_a_thread": hostile(
        "import os, threading\ndef solve(n):\n"
        "    thread = threading.Thread(target=os._exit, args=(0,))\n    thread.start(); thread.join()",
        "crashed",
    ),
    "exit_when_the_value_is_read": hostile(
        "import os\nclass V(int):\n    def __index__(self): os._exit(0)\n    __int__ = __repr__ = __str__ = __index__\n"
        "def solve(n): return V(0)",
        "ok",
        "crashed",
    ),
    "exit_in_a_destructor": hostile(
        "import os\nclass V:\n    def __del__(self): os._exit(0)\ndef solve(n): return V()", "crashed"
    ),
    "exit_in_the_exception_text": hostile(
        "import os\nclass E(Exception):\n    def __str__(self): os._exit(0)\ndef solve(n): raise E", "crashed"
    ),
    "abort": hostile("import os\ndef solve(n): os.abort()", "crashed"),
    "prints_success_and_leaves": hostile(
        "import os\nprint('ok', 'passed', 'All tests passed', flush=True)\nos.write(1, b'PASSED\\n')\nos._exit(0)",
        "crashed",
    ),
    "base_exception": hostile("class E(BaseException): pass\ndef solve(n): raise E('passed')", "error"),
    "keyboard_interrupt": hostile("def solve(n): raise KeyboardInterrupt", "error"),
}
SIGNALS = {
    "kills_itself": hostile(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\ndef solve(n): return 0", "ok", "error", "crashed"
    ),
    "kills_its_parent": hostile(
        "import os\nos.kill(os.getppid(), 9)\ndef solve(n): return 0", "ok", "error", "crashed"
    ),
    "kills_the_judge": hostile(
        "import os, signal\nfor n in (9, 15, 19):\n    try: os.kill({{judge}}, n)\n    except OSError: pass\n"
        "try: signal.pidfd_send_signal(os.pidfd_open({{judge}}), 9)\nexcept OSError: pass\ndef solve(n): return 0"
    ),
    "looks_for_processes_to_kill": hostile(
        "import os\ndef solve(n):\n    found = []\n    for pid in range(2, 40000):\n"
        "        try: os.kill(pid, 0); found.append(pid)\n        except OSError: pass\n    return found == [] or 10"
    ),
    "kills_its_group": hostile("import os\nos.killpg(0, 9)\ndef solve(n): return 0", "ok", "error", "crashed"),
    "stops_itself": hostile(
        "import os, signal\ndef solve(n): os.kill(os.getpid(), signal.SIGSTOP); return 0",
        "ok",
        "error",
        "wall",
        sleeps=True,
    ),
    "alarm": hostile(
        "import signal\ndef solve(n):\n    signal.setitimer(signal.ITIMER_REAL, 0.001)\n    signal.pause()",
        "wall",
        "crashed",
        sleeps=True,
    ),
    "ignores_every_signal": hostile(
        "import signal\nfor s in signal.valid_signals():\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ndef solve(n):\n    while True: pass",
        "cpu",
    ),
}
CRASHES = {
    "segfault": hostile("import ctypes\ndef solve(n): return ctypes.string_at(0)", "crashed"),
    "endless_recursion": hostile("def solve(n): return solve(n) + 1", "error"),
    "recursion_without_limit": hostile(
        "import sys\nsys.setrecursionlimit(10**9)\nclass A:\n    def __getattr__(self, name): return getattr(self, name + 'x')\n"
        "def solve(n): return A().x",
        "crashed", "error", "memory", "cpu",
    ),
    "endless_repr": hostile("import sys\nsys.setrecursionlimit(10**8)\ndef solve(n):\n    a = ()\n    for _ in range(10**6): a = (a,)\n    return hash(a)", "ok", "crashed", "memory", "error", "cpu"),
    "broken_bytecode": hostile("def solve(n): pass\nsolve.__code__ = solve.__code__.replace(co_code=b'\\x64\\xff' * 20, co_stacksize=0)", "crashed", "error", "ok", "cpu"),
    "frees_none": hostile("import ctypes, sys\ndef solve(n):\n    ctypes.memset(id(None), 0, 16)\n    return None", "crashed", "ok", "error", "cpu"),
}  # fmt: skip
FAMILIES = {"wrong answers": WRONG, "exits": EXITS, "signals": SIGNALS, "crashes": CRASHES}
